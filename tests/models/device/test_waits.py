"""A GPU is waited for once a batch; what needs an answer before that asks for all sequences together.

Tensors without numbers show it: whoever reads one of them fails. And that numbers stay what they are where a
processor passes for a GPU.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.attention import reference, sdpa, spans, torch_private
from models.compiled import native
from models.device import gathering, packed
from models.device.steps import finish
from models.encoder.stack import Stack
from models.folders.parameters import parameter_shapes
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import Selection, Share
from models.pooling_spec import PoolingSpec
from models.protocol import Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of
from tests.in_one import contextualize
from tests.models.attention.problems import problems

META = torch.device("meta")
ENCODER = ModelSpec(
    d_model=32,
    heads=4,
    layers=2,
    residual=True,
    norm=NormSpec(kind="layer"),
    feed_forward=FeedForwardSpec(d_ff=40),
    pooling=PoolingSpec(modes=("cls",)),
)
SPECS = {
    "encoder": ENCODER,
    "window": replace(ENCODER, attention=AttentionSpec(left_window=2, right_window=1)),
    "causal, grouped": replace(ENCODER, kv_heads=2, attention=AttentionSpec(causal=True)),
    "softcap": replace(ENCODER, attention=AttentionSpec(softcap=20.0)),
    "alibi": replace(ENCODER, positions=PositionSpec(kind="alibi")),
}
CHOSEN: dict[str, dict[str, Any]] = {
    "z and pooled": {"outputs": ("z", "pooled")},
    "rows": {"outputs": ("z", "hidden", "weights"), "rows": (2, 0)},
    "derived": {
        "outputs": ("weights", "entropy", "received", "top_k_keys", "top_k_weights", "lse", "scores")
    },
    "sums": {
        "outputs": ("head_profile", "share", "value_norms", "output_norms"),
        "share": Share(of=((0, 1),), over=((0, 3),)),
    },
    "spans": {"outputs": ("weights",), "spans": ((0, 2), (1, 4))},
    "heads out of order": {"outputs": ("weights", "entropy"), "heads": (3, 0)},
}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many flags were read at once, each time that any were, before the outputs come over."""
    read: list[int] = []

    def noting(flags: Sequence[torch.Tensor]) -> list[bool]:
        if flags:
            read.append(len(flags))
        return [True] * len(flags)

    monkeypatch.setattr(reference, "_read", noting)
    for module in (gathering, packed):
        monkeypatch.setattr(module, "begin_copy", lambda raw: np.zeros(raw.numel(), np.uint8))
    return read


def item(spec: ModelSpec, length: int, mask: Any = None, **chosen: Any) -> Item:
    card = card_of(spec)
    x = np.ones((length, spec.d_model), np.float32)
    selection = Selection(layers=tuple(range(spec.layers)), layer_axis=True, **chosen)
    return Item(card=card, input=Tokens(embeddings=x, mask=mask), selection=selection)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("case", CHOSEN)
def test_nothing_is_read_but_whose_z_is_to_be_believed_once_a_layer(
    waits: list[int], name: str, case: str
) -> None:
    spec, chosen = SPECS[name], CHOSEN[case]
    parameters = {key: torch.empty(shape, device=META) for key, shape in parameter_shapes(spec).items()}
    keys = np.array([True, True, False, True, True])
    batch = [
        item(spec, 5, **chosen),
        item(spec, 7, **chosen),
        item(spec, 5, keys, **chosen),
        item(spec, 5, keys, **chosen),
        item(spec, 4, np.tri(4, dtype=np.bool_), **chosen),
    ]
    Stack(spec, parameters, META).run(batch)
    reads_z = {"z", "hidden", "pooled"} & {*chosen["outputs"]}
    layers = spec.layers if reads_z else spec.layers - 1
    assert len(waits) <= 2 * layers  # once for those of each rule, whatever their number
    if name == "encoder":
        assert waits == [3] * layers  # masks of three sequences; without them nothing is in doubt


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor passes for a GPU: torch's public attention, bool masks, and one look for all sequences."""
    monkeypatch.setattr(native, "load_native", lambda: None)
    monkeypatch.setattr(torch_private, "_cpu_kernel", lambda: None)
    for module in (sdpa, reference, spans):
        monkeypatch.setattr(module, "told_at_once", lambda _: False)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("spoiled", [None, "a key", "a value"])
def test_attention_of_all_sequences_is_that_of_each_whoever_is_spoiled(spoiled: str | None) -> None:
    made = problems()
    if spoiled is not None:
        for one in made:
            (one.k if spoiled == "a key" else one.v)[:, -1] = torch.inf
    found = finish(reference.attend(made, [False] * len(made)))
    start = 0
    for one in made:
        rows = one.q.shape[1]
        expected, _ = contextualize(one, want_lse=True)
        plain, _ = finish(reference._in_row_blocks(one))
        for exact in (expected, plain):
            z, good = found.z[start : start + rows].transpose(0, 1), exact.isfinite().all(-1)
            assert torch.equal(z.isfinite().all(-1), good)
            torch.testing.assert_close(z[good], exact[good], rtol=1e-5, atol=1e-5)
        start += rows
    if spoiled is not None:  # by a key that comes later no row is, which may not attend it
        causal = next(place for place, one in enumerate(made) if one.spec.causal)
        first = sum(one.q.shape[1] for one in made[:causal])
        assert found.z[first].isfinite().all()


@pytest.mark.parametrize("chosen", [((0, 2), (1, 4)), ((5, 7), (0, 1), (2, 3))])
@pytest.mark.parametrize("heads", [None, (2, 0)])
def test_weights_between_spans_are_the_same_without_sums_that_a_gpu_makes_in_any_order(
    monkeypatch: pytest.MonkeyPatch, chosen: tuple[tuple[int, int], ...], heads: tuple[int, ...] | None
) -> None:
    for one in problems():
        expected = finish(spans.between_spans(one, None, heads=heads, spans=chosen))
        with monkeypatch.context() as as_on_a_gpu:
            as_on_a_gpu.setattr(spans, "told_at_once", lambda _: False)
            found = finish(spans.between_spans(one, None, heads=heads, spans=chosen))
        torch.testing.assert_close(found, expected)
