"""Every mechanism a specification can declare, against float64 written the slow way."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.encoder.stack import Stack
from models.halves import Numbers, widened
from models.mechanism import AttentionSpec, PositionSpec, ProjectionSpec, RotarySpec, ScalingSpec
from models.outputs import Selection
from models.pooling_spec import PoolingSpec, PoolingStep
from models.protocol import Answer, Item, ModelCard, Tokens
from models.spec import EmbeddingSpec, FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of, fake_card
from tests.halved import halved
from tests.slow_stack import SlowStack, random_parameters

SPECS = {
    "bare": ModelSpec(d_model=12, heads=3),
    "raw": ModelSpec(
        d_model=8,
        projection=ProjectionSpec(query="identity", key="identity", value="identity", output="identity"),
    ),
    "value is key": ModelSpec(
        d_model=8, projection=ProjectionSpec(value="key", output="identity", bias=False), layers=2
    ),
    "query by mlp": ModelSpec(d_model=8, heads=2, projection=ProjectionSpec(query="mlp", activation="relu")),
    "all by mlp": ModelSpec(
        d_model=8, heads=2, projection=ProjectionSpec(query="mlp", key="mlp", value="mlp")
    ),
    "own token added": ModelSpec(
        d_model=8,
        projection=ProjectionSpec(query="identity", key="identity", value="identity", output="identity"),
        attention=AttentionSpec(exclude_self=True, add_self=True),
    ),
    "cosine": ModelSpec(d_model=8, heads=2, attention=AttentionSpec(similarity="cosine", scale=7.0)),
    "causal window softcap": ModelSpec(
        d_model=8, heads=2, attention=AttentionSpec(causal=True, left_window=2, softcap=1.5), layers=2
    ),
    "grouped, d_v differs": ModelSpec(d_model=12, heads=4, kv_heads=2, d_k=5, d_v=3),
    "sinusoidal": ModelSpec(d_model=8, heads=2, positions=PositionSpec(kind="sinusoidal")),
    "learned": ModelSpec(d_model=8, positions=PositionSpec(kind="learned", max_positions=16, offset=2)),
    "alibi": ModelSpec(d_model=8, heads=4, positions=PositionSpec(kind="alibi")),
    "relative and a table": ModelSpec(
        d_model=8,
        heads=2,
        positions=PositionSpec(kind="relative", buckets=8, max_distance=16, table=True, max_positions=16),
    ),
    "rotary, interleaved": ModelSpec(
        d_model=12, heads=2, positions=PositionSpec(kind="rotary", interleaved=True, rotary_fraction=0.67)
    ),
    "rotary, each layer its own": ModelSpec(
        d_model=12,
        heads=3,
        layers=3,
        positions=PositionSpec(kind="rotary", theta=50.0, scaling=ScalingSpec(kind="linear", factor=2.0)),
        rotary=(
            RotarySpec(theta=9.0),
            None,
            RotarySpec(
                scaling=ScalingSpec(
                    kind="longrope",
                    attention_factor=1.4,
                    original_positions=4,
                    short_factors=(1.0, 0.5),
                    long_factors=(2.0, 0.25),
                )
            ),
        ),
    ),
    "post-norm encoder": ModelSpec(
        d_model=8,
        heads=2,
        layers=3,
        residual=True,
        norm=NormSpec(kind="layer"),
        feed_forward=FeedForwardSpec(d_ff=16),
        embedding=EmbeddingSpec(vocabulary=11, types=2, norm=True, width=6),
        positions=PositionSpec(kind="learned", max_positions=20),
        pooling=PoolingSpec(steps=(PoolingStep(kind="normalize"),)),
    ),
    "pre-norm gated decoder": ModelSpec(
        d_model=16,
        heads=4,
        kv_heads=2,
        layers=2,
        residual=True,
        attention=AttentionSpec(causal=True),
        norm=NormSpec(kind="rms", placement="pre", final=True),
        projection=ProjectionSpec(bias=False, output_bias=False, qk_norm="rms"),
        feed_forward=FeedForwardSpec(d_ff=24, kind="gated", activation="silu", bias=False),
        positions=PositionSpec(kind="rotary"),
        windows=(None, 3),
    ),
    "pre-norm encoder of two windows": ModelSpec(
        d_model=8,
        heads=2,
        layers=3,
        residual=True,
        norm=NormSpec(kind="layer", placement="pre", final=True, bias=False, skip_first=True),
        feed_forward=FeedForwardSpec(d_ff=12, kind="gated", bias=False),
        embedding=EmbeddingSpec(vocabulary=11, norm=True),
        positions=PositionSpec(kind="rotary", theta=90.0),
        windows=(None, 2, 1),
        right_windows=(None, 2, None),
        rotary=(None, RotarySpec(theta=3.0), None),
    ),
    "layers in common": ModelSpec(
        d_model=8,
        heads=2,
        layers=4,
        shared=(0, 1, 1, 0),
        residual=True,
        norm=NormSpec(kind="layer"),
        feed_forward=FeedForwardSpec(d_ff=12),
        embedding=EmbeddingSpec(vocabulary=11, norm=True, widened=True),
        windows=(None, 2, 1, None),
    ),
    "sandwich": ModelSpec(
        d_model=8,
        heads=2,
        layers=2,
        residual=True,
        norm=NormSpec(kind="rms", placement="sandwich", final=True, unit_offset=True),
        feed_forward=FeedForwardSpec(d_ff=12, activation="gelu_tanh", bias=False),
        embedding=EmbeddingSpec(vocabulary=5, scale=2.5),
    ),
    "parallel": ModelSpec(
        d_model=8,
        heads=2,
        layers=2,
        residual=True,
        parallel=True,
        norm=NormSpec(kind="layer", placement="pre"),
        feed_forward=FeedForwardSpec(d_ff=12),
    ),
}
LENGTHS = (5, 1, 9, 2)


def build(spec: ModelSpec) -> tuple[ModelCard, SlowStack]:
    parameters = random_parameters(spec)
    tensors = {name: torch.from_numpy(array) for name, array in parameters.items()}
    card = card_of(spec, handle=Stack(spec, tensors, torch.device("cpu")))
    return card, SlowStack(spec, parameters)


def run(items: list[Item]) -> list[dict[str, np.ndarray]]:
    assert items[0].card is not None
    stack = items[0].card.handle
    assert isinstance(stack, Stack)
    with torch.inference_mode():
        answers = stack.run(items)
    assert all(isinstance(answer, Answer) for answer in answers)
    return [answer.tensors for answer in answers]  # type: ignore[union-attr]


def vectors(spec: ModelSpec, length: int, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng((seed, length))
    return chance.standard_normal((length, spec.embedding_width), dtype=np.float32)


def everything(spec: ModelSpec) -> Selection:
    names = ("z", "weights", "hidden") if spec.blocks else ("z", "weights")
    return Selection(outputs=names, layers=tuple(range(spec.layers)), layer_axis=True)


@pytest.mark.parametrize("name", SPECS)
def test_ragged_batch_agrees_with_float64(name: str) -> None:
    spec = SPECS[name]
    card, slow = build(spec)
    inputs = [vectors(spec, length) for length in LENGTHS]
    chosen = everything(spec)
    batch = run([Item(card=card, input=Tokens(embeddings=x), selection=chosen) for x in inputs])
    for x, actual in zip(inputs, batch, strict=True):
        z, weights, hidden = slow.run(x)
        np.testing.assert_allclose(actual["z"], np.stack(z), atol=2e-5)
        np.testing.assert_allclose(actual["weights"], np.stack(weights), atol=1e-5)
        if "hidden" in chosen:
            np.testing.assert_allclose(actual["hidden"], np.stack(hidden), atol=2e-5)


@pytest.mark.parametrize(
    "name",
    [
        "bare",
        "grouped, d_v differs",
        "alibi",
        "rotary, interleaved",
        "rotary, each layer its own",
        "cosine",
    ],
)
def test_cross_attention_reads_keys_and_values_from_memory(name: str) -> None:
    spec = SPECS[name]
    card, slow = build(spec)
    inputs = [(vectors(spec, t), vectors(spec, s, 1) if s else None) for t, s in ((4, 7), (3, 0), (6, 2))]
    batch = run(
        [Item(card=card, input=Tokens(embeddings=x, memory=m), selection=everything(spec)) for x, m in inputs]
    )
    for (x, memory), actual in zip(inputs, batch, strict=True):
        z, weights, _ = slow.run(x, memory)
        np.testing.assert_allclose(actual["z"], np.stack(z), atol=2e-5)
        np.testing.assert_allclose(actual["weights"], np.stack(weights), atol=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_masks_hide_keys_and_an_empty_row_is_zeros(rank: int) -> None:
    spec = SPECS["bare"]
    card, slow = build(spec)
    x = vectors(spec, 6)
    chance = np.random.default_rng(0)
    mask = chance.random((6,) * rank) < 0.6
    if rank == 2:
        mask[2] = False
    item = Item(card=card, input=Tokens(embeddings=x, mask=mask), selection=everything(spec))
    (actual,) = run([item])
    z, weights, _ = slow.run(x, mask=mask)
    np.testing.assert_allclose(actual["z"], np.stack(z), atol=2e-5)
    np.testing.assert_allclose(actual["weights"], np.stack(weights), atol=1e-5)
    assert not actual["weights"][0][:, :, ~mask.reshape(-1, 6).any(0)].any()


def test_token_ids_and_embeddings_share_a_batch() -> None:
    spec = SPECS["post-norm encoder"]
    card, slow = build(spec)
    ids = np.array([3, 10, 0, 3])
    rows = slow.p["embedding.tokens.weight"][ids].astype(np.float32)
    chosen = everything(spec)
    by_ids, by_rows = run(
        [
            Item(card=card, input=Tokens(ids=ids), selection=chosen),
            Item(card=card, input=Tokens(embeddings=rows), selection=chosen),
        ]
    )
    for name, array in by_ids.items():
        np.testing.assert_allclose(by_rows[name], array, atol=1e-5)


@pytest.mark.parametrize("name", ["bare", "grouped, d_v differs", "post-norm encoder"])
def test_halves_are_answered_bit_by_bit_as_their_float32(name: str) -> None:
    """Of one dtype or of several in a batch, beside token ids or a memory."""
    spec = SPECS[name]
    card, _ = build(spec)

    def of(x: Numbers, memory: Numbers | None = None) -> Item:
        return Item(card=card, input=Tokens(embeddings=x, memory=memory), selection=everything(spec))

    def all_of(make: Callable[[Numbers], Numbers]) -> list[list[Item]]:
        sent: list[Numbers] = [halved(vectors(spec, 5), "float16"), halved(vectors(spec, 3), "bfloat16")]
        first, second = map(make, sent)
        ids = [Item(card=card, input=Tokens(ids=np.array([1, 4])), selection=everything(spec))]
        by_ids = [[*ids, of(first)]] if spec.embedding else []
        crossed = [] if spec.embedding else [[of(first, second), of(second)], [of(second, first)]]
        return [[of(first)], [of(second)], [of(first), of(vectors(spec, 4)), of(second)], *by_ids, *crossed]

    for narrow, wide in zip(all_of(lambda x: x), all_of(widened), strict=True):
        for found, expected in zip(run(narrow), run(wide), strict=True):
            assert {name: one.tobytes() for name, one in found.items()} == {
                name: one.tobytes() for name, one in expected.items()
            }


def test_embedding_scale_applies_to_looked_up_words_and_not_to_the_callers_vectors() -> None:
    spec = SPECS["sandwich"]
    card, slow = build(spec)
    ids = np.array([1, 4, 4, 0])
    rows = 2.5 * slow.p["embedding.tokens.weight"][ids]
    chosen = everything(spec)
    (actual,) = run([Item(card=card, input=Tokens(ids=ids), selection=chosen)])
    np.testing.assert_allclose(actual["hidden"], np.stack(slow.run(rows)[2]), atol=2e-5)


def test_pooled_is_the_normalised_mean_of_the_unmasked_rows() -> None:
    spec = SPECS["post-norm encoder"]
    card, slow = build(spec)
    x, mask = vectors(spec, 5), np.array([True, True, False, True, False])
    pooled = Selection(outputs=("pooled",), layers=(2,))
    (actual,) = run([Item(card=card, input=Tokens(embeddings=x, mask=mask), selection=pooled)])
    mean = slow.run(x, mask=mask)[2][-1][mask].mean(axis=0)
    np.testing.assert_allclose(actual["pooled"], mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_row_that_may_attend_nothing_has_the_bias_for_z_and_with_add_self_its_own_value(name: str) -> None:
    spec = SPECS[name]
    card, slow = build(spec)
    mask = np.ones((4, 4), dtype=bool)
    mask[1] = False
    asked = Selection(outputs=("z", "z_heads", "values"), rows=(1,))
    (made,) = run([Item(card=card, input=Tokens(embeddings=vectors(spec, 4), mask=mask), selection=asked)])
    heads = made["z_heads"][:, 0]
    values = np.repeat(made["values"], spec.heads // spec.key_heads, axis=0)[:, 1]
    np.testing.assert_allclose(heads, values if spec.attention.add_self else np.zeros_like(heads))
    if spec.projection.output == "linear":
        weight, bias = (
            slow.p.get(f"layers.0.attention.output.{one}", np.zeros(1)) for one in ("weight", "bias")
        )
        np.testing.assert_allclose(made["z"][0], weight @ heads.reshape(-1) + bias, atol=1e-5)


@pytest.mark.parametrize("keys", [5, 3])
def test_mask_of_a_memory_picks_no_rows_to_pool(keys: int) -> None:
    spec = SPECS["post-norm encoder"]
    card, _ = build(spec)
    x, mask = vectors(spec, 5), np.array([True, False, True, True, False][:keys])
    memory = np.random.default_rng(3).standard_normal((keys, spec.d_model), dtype=np.float32)
    asked = Selection(outputs=("hidden", "pooled"), layers=(2,))
    (made,) = run([Item(card=card, input=Tokens(embeddings=x, memory=memory, mask=mask), selection=asked)])
    mean = made["hidden"].mean(axis=0)
    np.testing.assert_allclose(made["pooled"], mean / np.linalg.norm(mean), atol=1e-5)


def test_rollout_multiplies_the_chosen_layers() -> None:
    spec = SPECS["post-norm encoder"]
    card, slow = build(spec)
    x = vectors(spec, 7)
    chosen = Selection(outputs=("rollout",), layers=(0, 2), layer_axis=True, rows=(6, 1))
    (actual,) = run([Item(card=card, input=Tokens(embeddings=x), selection=chosen)])
    weights = slow.run(x)[1]
    mixed = [(weights[layer].mean(axis=0) + np.eye(7)) / 2 for layer in (0, 2)]
    np.testing.assert_allclose(actual["rollout"], (mixed[1] @ mixed[0])[[6, 1]], atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_torch_encoder_layer_is_one_of_our_blocks(norm_first: bool) -> None:
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0, batch_first=True, norm_first=norm_first)
    layer = layer.eval()
    state = {name: tensor.detach() for name, tensor in layer.state_dict().items()}
    query, key, value = state["self_attn.in_proj_weight"].chunk(3)
    query_bias, key_bias, value_bias = state["self_attn.in_proj_bias"].chunk(3)
    theirs = {"output": "self_attn.out_proj", "up": "linear1", "down": "linear2"}
    parameters = {
        "layers.0.attention.query.weight": query,
        "layers.0.attention.key.weight": key,
        "layers.0.attention.value.weight": value,
        "layers.0.attention.query.bias": query_bias,
        "layers.0.attention.key.bias": key_bias,
        "layers.0.attention.value.bias": value_bias,
    }
    for kind in ("weight", "bias"):
        parameters[f"layers.0.attention.output.{kind}"] = state[f"{theirs['output']}.{kind}"]
        parameters[f"layers.0.feed_forward.up.{kind}"] = state[f"{theirs['up']}.{kind}"]
        parameters[f"layers.0.feed_forward.down.{kind}"] = state[f"{theirs['down']}.{kind}"]
        parameters[f"layers.0.attention_norm.{kind}"] = state[f"norm1.{kind}"]
        parameters[f"layers.0.feed_forward_norm.{kind}"] = state[f"norm2.{kind}"]
    spec = ModelSpec(
        d_model=16,
        heads=4,
        residual=True,
        norm=NormSpec(kind="layer", placement="pre" if norm_first else "post"),
        feed_forward=FeedForwardSpec(d_ff=32, activation="relu"),
    )
    card = fake_card(d_model=16, heads=4, key_heads=4, d_k=4, d_v=4, layers=1)
    x = vectors(spec, 6)
    chosen = Selection(outputs=("hidden",))
    with torch.inference_mode():
        expected = layer(torch.from_numpy(x)[None])[0].numpy()
        stack = Stack(spec, parameters, torch.device("cpu"))
        (answer,) = stack.run([Item(card=card, input=Tokens(embeddings=x), selection=chosen)])
    assert isinstance(answer, Answer)
    np.testing.assert_allclose(answer.tensors["hidden"], expected, atol=1e-5)


def test_seed_12_positions_break_the_symmetry_that_attention_alone_keeps() -> None:
    """SEEDS row 12: without positions permuting tokens permutes z; with them it does not."""
    order = [3, 1, 4, 0, 2]
    for name in ("bare", "sinusoidal", "learned", "rotary, interleaved", "alibi"):
        spec = SPECS[name]
        card, _ = build(spec)
        x = vectors(spec, 5)
        straight, permuted = run(
            [
                Item(card=card, input=Tokens(embeddings=rows), selection=Selection(outputs=("z",)))
                for rows in (x, x[order])
            ]
        )
        assert np.allclose(straight["z"][order], permuted["z"], atol=1e-5) == (name == "bare")
