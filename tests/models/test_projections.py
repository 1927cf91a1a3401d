"""A norm before W_QKV, norms of q and k and rotations, inside one call: against float64, at every edge."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.compiled import native as module
from models.compiled.extents import Extent
from models.compiled.native import Native, native
from models.compiled.panels import AngleTables, Projections
from models.encoder.norm import Norm
from models.encoder.rotary import FIRST_TABLE, Rotary
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec, ProjectionSpec, RotarySpec, ScalingSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.compiled import random
from tests.fakes import card_of
from tests.slow_stack import random_parameters

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

LENGTHS = (1, 17, 5, 33, 16)
CPU = torch.device("cpu")
RULE = {"scale": 0.3, "causal": True}


def norm_of(kind: str, width: int, seed: int) -> Norm:
    weight, bias = 1 + random(width, seed=seed) / 5, random(width, seed=seed + 1) / 5
    return Norm({"norm.weight": weight, "norm.bias": bias}, "norm", NormSpec(kind=kind))  # type: ignore[arg-type]


def normed(norm: Norm | None, x: Tensor) -> Tensor:
    if norm is None:
        return x
    centred = x if norm.rms else x - x.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()
    return y if norm.bias is None else y + norm.bias.double()


def turned(x_NHD: Tensor, at: PositionSpec, lengths: tuple[int, ...]) -> Tensor:
    """The formula of the paper, a pair at a time, in float64."""
    y, width = x_NHD.clone(), int(x_NHD.shape[-1] * at.rotary_fraction)
    position = torch.cat([torch.arange(one, dtype=torch.float64) for one in lengths])[:, None]
    for pair in range(width // 2):
        a, b = (2 * pair, 2 * pair + 1) if at.interleaved else (pair, pair + width // 2)
        angle = position / at.theta ** (2 * pair / width)
        y[..., a] = x_NHD[..., a] * angle.cos() - x_NHD[..., b] * angle.sin()
        y[..., b] = x_NHD[..., b] * angle.cos() + x_NHD[..., a] * angle.sin()
    return y


def rotary_of(turned: int, *, interleaved: bool = False, **more: object) -> Rotary:
    return Rotary(RotarySpec(**more), turned, CPU, interleaved=interleaved)  # type: ignore[arg-type]


def extents_of(lengths: tuple[int, ...], **read: bool) -> list[Extent]:
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    return [Extent(slice(at, at + length), **read) for at, length in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(
    ("width", "fraction"), [(2, 1.0), (6, 0.4), (16, 1.0), (32, 0.5), (40, 0.6), (64, 1.0), (80, 0.9)]
)
def test_what_is_done_to_q_and_k_is_right_at_every_edge(
    ours: Native, kind: str, interleaved: bool, width: int, fraction: float
) -> None:
    heads, key_heads, inner, rows = 4, 2, 37, sum(LENGTHS)
    weight = random((heads + 2 * key_heads) * width, inner) / 6
    at = PositionSpec(kind="rotary", theta=50.0, interleaved=interleaved, rotary_fraction=fraction)
    by = Projections(
        qkv=ours.lay_out(weight, None),
        output=None,
        heads=heads,
        key_heads=key_heads,
        before=norm_of(kind, inner, 1),
        query_norm=norm_of(kind, width, 3),
        key_norm=norm_of(kind, width, 5),
        rotation=rotary_of(int(width * fraction), theta=50.0, interleaved=interleaved),
    )
    x = 3 * random(rows, inner, seed=7) + 1
    found = ours.block(x, extents_of(LENGTHS), by, **RULE)
    slow = (normed(by.before, x.double()) @ weight.double().T).view(rows, -1, width)
    q, k, v = slow.split([heads, key_heads, key_heads], dim=1)
    q, k = (turned(normed(by.query_norm, q), at, LENGTHS), turned(normed(by.key_norm, k), at, LENGTHS))
    assert found.projected is not None
    expected = torch.cat((q, k, v), dim=1).flatten(1)
    torch.testing.assert_close(found.projected.double(), expected, rtol=2e-5, atol=2e-5)
    three = found.projected.view(rows, -1, width).split([heads, key_heads, key_heads], dim=1)
    assert torch.equal(found.z, ours.attend(*three, extents_of(LENGTHS), **RULE).z.flatten(1))


@pytest.mark.parametrize("interleaved", [True, False])
def test_a_sequence_is_turned_by_its_own_length_where_angles_depend_on_it(
    ours: Native, interleaved: bool
) -> None:
    scaling = ScalingSpec(kind="dynamic", factor=4.0, original_positions=16)
    rotary = rotary_of(8, interleaved=interleaved, scaling=scaling)
    panels, x = ours.lay_out(random(24, 8), None), random(sum(LENGTHS), 8)
    by = Projections(qkv=panels, output=None, heads=1, key_heads=1, rotation=rotary)
    found = ours.block(x, extents_of(LENGTHS), by, **RULE).projected
    assert found is not None
    q = rotary.rotate(ours.linear(x, panels)[:, None, :8], *rotary.angles(LENGTHS, LENGTHS))
    assert torch.equal(found[:, :8], q[:, 0])
    plain = replace(by, rotation=rotary_of(8, interleaved=interleaved))
    stretched = ~(ours.block(x, extents_of(LENGTHS), plain, **RULE).projected == found).all(1)
    for extent in extents_of(LENGTHS):
        assert bool(stretched[extent.rows].any()) == (extent.length > 16)


@pytest.mark.parametrize("by_length", [True, False])
def test_a_long_sequence_may_be_projected_by_parts(ours: Native, by_length: bool) -> None:
    width, rows, extents = 24, 70, extents_of((70,))
    scaling = ScalingSpec(kind="dynamic", factor=4.0, original_positions=16) if by_length else None
    by = Projections(
        qkv=ours.lay_out(random(4 * width, 1024) / 32, random(4 * width)),
        output=None,
        heads=2,
        key_heads=1,
        before=norm_of("rms", 1024, 1),
        query_norm=norm_of("rms", width, 3),
        rotation=rotary_of(16, scaling=scaling),
    )
    x = random(rows, 1024)
    expected = ours.block(x, extents, by, **RULE).projected
    for step in (1, 16, 33, 70):
        found = torch.empty(rows, 200)[:, 7 : 7 + 4 * width]
        for first in range(0, rows, step):
            part = slice(first, first + step)
            ours.project(x[part], by, found[part], first=first, length=rows)
        assert torch.equal(found, expected)
    ours.project(x[:0], by, found[:0], length=0)
    with pytest.raises(ValueError, match="rows 69 to 71 are not of a sequence of 70"):
        ours.project(x[:2], by, found[:2], first=69, length=70)
    for wrong in (found[:2], found[:3, 1:], torch.empty(4 * width, 3).mT, found[:3].double()):
        with pytest.raises(ValueError, match=r"q, k and v of 3 rows fill float32 \[3, 96\]"):
            ours.project(x[:3], by, wrong, length=70)


def test_one_norm_or_rotation_alone_leaves_the_rest_as_it_is(ours: Native) -> None:
    width, rows = 12, sum(LENGTHS)
    panels, x = ours.lay_out(random(36, 20) / 5, random(36)), random(rows, 20)
    q, k, v = ours.linear(x, panels).split(width, dim=1)
    bare = Projections(qkv=panels, output=None, heads=1, key_heads=1)
    one = norm_of("rms", width, 1)
    rotary = rotary_of(width)
    for changes, changed in (
        ({"query_norm": one}, (True, False)),
        ({"key_norm": one}, (False, True)),
        ({"rotation": rotary}, (True, True)),
    ):
        found = ours.block(x, extents_of(LENGTHS), replace(bare, **changes), **RULE)
        assert found.projected is not None
        now = found.projected.split(width, dim=1)
        assert (not torch.equal(now[0], q), not torch.equal(now[1], k)) == changed
        assert torch.equal(now[2], v)


def test_a_row_has_the_same_bits_whatever_it_is_computed_beside(
    ours: Native, threads: Callable[[int], None]
) -> None:
    width, rows = 24, sum(LENGTHS)
    by = Projections(
        qkv=ours.lay_out(random(4 * width, 1024) / 32, None),
        output=ours.lay_out(random(50, 2 * width) / 7, None),
        heads=2,
        key_heads=1,
        before=norm_of("layer", 1024, 1),
        query_norm=norm_of("rms", width, 3),
        key_norm=norm_of("rms", width, 5),
        rotation=rotary_of(width),
    )
    x, extents = random(rows, 1024), extents_of(LENGTHS)
    alone = [ours.block(x[one.rows], extents_of((one.length,)), by, **RULE).z for one in extents]
    for count in (1, 2, 3):
        threads(count)
        assert torch.equal(ours.block(x, extents, by, **RULE).z, torch.cat(alone))
        assert torch.equal(ours.block(x, extents[::-1], by, **RULE).z, torch.cat(alone[::-1]))


@pytest.mark.parametrize("position", [0, 1, 511, 512, 4095, 131071])
def test_angles_are_those_of_float32_however_far_a_token_stands(position: int) -> None:
    tables = rotary_of(64, theta=1e6).tables(position + 1)
    angles = torch.tensor(float(position)) / 1e6 ** (torch.arange(0, 64, 2) / 64)
    torch.testing.assert_close(tables.cosines[position], angles.cos(), rtol=0, atol=1e-7 * (1 + position))
    torch.testing.assert_close(tables.sines[position], angles.sin(), rtol=0, atol=1e-7 * (1 + position))


def test_a_table_grows_and_what_it_said_stays() -> None:
    rotary = rotary_of(16)
    before = rotary.tables(3)
    assert rotary.tables(FIRST_TABLE) is before
    longer = rotary.tables(FIRST_TABLE + 1)
    assert longer.positions == 2 * FIRST_TABLE
    assert torch.equal(before.cosines, longer.cosines[:FIRST_TABLE])
    assert torch.equal(before.sines, longer.sines[:FIRST_TABLE])
    assert rotary.tables(5) is longer


class Shorter(Rotary):
    """Gives fewer positions than are asked for."""

    def tables(self, positions: int) -> AngleTables:
        whole = super().tables(positions)
        return AngleTables(whole.cosines[: positions - 1], whole.sines[: positions - 1])


def test_tables_that_do_not_fit_never_reach_c(ours: Native) -> None:
    panels, shorter = ours.lay_out(random(24, 8), None), Shorter(RotarySpec(), 8, CPU, interleaved=False)
    with pytest.raises(ValueError, match="a head of 8 numbers has not 16 to turn"):
        Projections(qkv=panels, output=None, heads=1, key_heads=1, rotation=rotary_of(16))
    by = Projections(qkv=panels, output=None, heads=1, key_heads=1, rotation=shorter)
    with pytest.raises(ValueError, match=r"tables of angles are float32 \[3, 4\] or longer"):
        ours.block(random(3, 8), extents_of((3,)), by, **RULE)
    with pytest.raises(ValueError, match=r"\[positions, half\] both, not \[3, 4\] and \[3, 5\]"):
        AngleTables(random(3, 4), random(3, 5))


@pytest.mark.parametrize("name", ["before", "query_norm", "key_norm"])
def test_norms_that_do_not_fit_never_reach_c(ours: Native, name: str) -> None:
    bare = Projections(qkv=ours.lay_out(random(24, 9), None), output=None, heads=1, key_heads=1)
    with pytest.raises(ValueError, match="has as many weights, not 7"):
        replace(bare, **{name: norm_of("rms", 7, 1)})


class Recorded(Native):
    """Remembers which of its functions were called."""

    def __init__(self, of: Native) -> None:
        self.__dict__.update(of.__dict__)
        self.called: list[str] = []

    def block(self, *given, **more):
        self.called.append("block")
        return super().block(*given, **more)

    def feed(self, *given, **more):
        self.called.append("feed")
        return super().feed(*given, **more)

    def project(self, *given, **more):
        self.called.append("project")
        return super().project(*given, **more)

    def attend(self, *given, **more):
        self.called.append("attend")
        return super().attend(*given, **more)

    def linear(self, *given, **more):
        self.called.append("linear")
        return super().linear(*given, **more)


PRE = NormSpec(kind="rms", placement="pre", final=True)
GATED = FeedForwardSpec(d_ff=48, kind="gated", activation="silu")
FAMILIES = {
    "bert": ModelSpec(
        d_model=32, heads=4, norm=NormSpec(kind="layer"), feed_forward=FeedForwardSpec(d_ff=48)
    ),
    "llama": ModelSpec(
        d_model=32,
        heads=4,
        kv_heads=2,
        attention=AttentionSpec(causal=True),
        norm=PRE,
        feed_forward=GATED,
        positions=PositionSpec(kind="rotary"),
    ),
    "gpt_neox": ModelSpec(
        d_model=32,
        heads=4,
        parallel=True,
        residual=True,
        attention=AttentionSpec(causal=True),
        norm=NormSpec(kind="layer", placement="pre", final=True),
        feed_forward=FeedForwardSpec(d_ff=48),
        positions=PositionSpec(kind="rotary", rotary_fraction=0.25),
    ),
}
FAMILIES["qwen3"] = replace(FAMILIES["llama"], d_k=16, projection=ProjectionSpec(qk_norm="rms"))
FAMILIES["gemma2"] = replace(
    FAMILIES["llama"],
    attention=AttentionSpec(causal=True, softcap=50.0),
    norm=replace(PRE, placement="sandwich", unit_offset=True),
    layers=3,
    windows=(4, None, 4),
)
FAMILIES["modernbert"] = replace(
    FAMILIES["llama"],
    kv_heads=None,
    attention=AttentionSpec(),
    norm=replace(PRE, kind="layer", bias=False, skip_first=True),
    layers=3,
    windows=(None, 3, 3),
    right_windows=(None, 3, 3),
    rotary=(RotarySpec(theta=160000.0), None, None),
)
FAMILIES["mpnet"] = replace(
    FAMILIES["bert"], positions=PositionSpec(kind="relative", buckets=8, max_distance=16)
)
FAMILIES = {name: replace(spec, layers=3, residual=True) for name, spec in FAMILIES.items()}


def items_of(stack: Stack, *outputs: tuple[str, ...]) -> list[Item]:
    spec = stack.spec
    card = card_of(spec, handle=stack)
    return [
        Item(
            card=card,
            input=Tokens(embeddings=random(9 + at, spec.d_model, seed=at).numpy()),
            selection=Selection(outputs=names, layers=tuple(range(spec.layers)), layer_axis=True),
        )
        for at, names in enumerate(outputs)
    ]


@pytest.fixture
def recorded(ours: Native, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded(ours)
    monkeypatch.setattr(module, "load_native", lambda: recorded)
    monkeypatch.setattr("models.encoder.linear._fastest", {})
    monkeypatch.setattr("models.encoder.linear._measured", lambda *_, preferred: preferred)
    return recorded


def stack_of(spec: ModelSpec) -> Stack:
    return Stack(spec, {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}, CPU)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("outputs", [("hidden",), ("z", "weights", "hidden")])
def test_a_block_is_two_calls(recorded: Recorded, family: str, outputs: tuple[str, ...]) -> None:
    stack = stack_of(FAMILIES[family])
    recorded.called.clear()
    stack.run(items_of(stack, outputs, outputs))
    assert recorded.called == ["block", "feed"] * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_neighbour_asks_for_changes_no_bits(recorded: Recorded, family: str) -> None:
    stack = stack_of(FAMILIES[family])
    (alone,) = stack.run(items_of(stack, ("z", "weights", "hidden")))
    beside, _ = stack.run(items_of(stack, ("z", "weights", "hidden"), ("z_heads",)))
    assert isinstance(alone, Answer)
    assert isinstance(beside, Answer)
    for name, tensor in alone.tensors.items():
        assert (beside.tensors[name] == tensor).all(), name
