"""`z_heads`, `output_norms` and `embedded` of specified models, against float64 written the slow way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.attention.lengths import OutputLengths, value_lengths
from models.encoder.block import Block
from models.outputs import Selection
from models.protocol import Answer, Failure, Item, Tokens
from models.shapes import shape_of
from tests.models.test_stack import LENGTHS, SPECS, build, run, vectors

NAMES = ("z", "z_heads", "output_norms", "value_norms", "weights", "values", "embedded")
CHOSEN = Selection(outputs=NAMES)


@pytest.mark.parametrize("name", SPECS)
def test_a_ragged_batch_agrees_with_float64(name: str) -> None:
    spec = SPECS[name]
    card, slow = build(spec)
    inputs = [vectors(spec, length) for length in LENGTHS]
    chosen = replace(CHOSEN, layers=tuple(range(spec.layers)), layer_axis=True)
    batch = run([Item(card=card, input=Tokens(embeddings=x), selection=chosen) for x in inputs])
    for x, actual in zip(inputs, batch, strict=True):
        z, weights, _ = slow.run(x)
        np.testing.assert_allclose(actual["z"], np.stack(z), atol=2e-5)
        np.testing.assert_allclose(actual["embedded"], slow.embed(x.astype(np.float64)), atol=1e-5)
        np.testing.assert_allclose(actual["z_heads"], np.stack(slow.head_z), atol=2e-5)
        norms = [slow.output_norms(layer, one) for layer, one in enumerate(weights)]
        np.testing.assert_allclose(actual["output_norms"], np.stack(norms), atol=2e-5)


@pytest.mark.parametrize("name", SPECS)
def test_heads_times_their_part_of_w_o_and_the_bias_sum_to_z(name: str) -> None:
    spec = SPECS[name]
    card, slow = build(spec)
    (made,) = run([Item(card=card, input=Tokens(embeddings=vectors(spec, 7)), selection=CHOSEN)])
    matrix, bias = np.eye(spec.d_model), 0.0
    if spec.projection.output == "linear":
        matrix = slow.p["layers.0.attention.output.weight"]
        bias = slow.p.get("layers.0.attention.output.bias", 0.0)
    if spec.layers == 1:
        parts = np.split(matrix, spec.heads, axis=1)
        z = sum(head @ part.T for head, part in zip(made["z_heads"], parts, strict=True)) + bias
        np.testing.assert_allclose(made["z"], z, atol=2e-5)
    if spec.projection.output == "identity":
        np.testing.assert_array_equal(made["output_norms"], made["value_norms"])


@pytest.mark.parametrize("name", ["grouped, d_v differs", "post-norm encoder", "pre-norm gated decoder"])
def test_chosen_heads_rows_and_layers_are_those_of_the_whole(name: str) -> None:
    spec = SPECS[name]
    card, _ = build(spec)
    given = Tokens(embeddings=vectors(spec, 6))
    every = tuple(range(spec.layers))
    whole = replace(CHOSEN, layers=every, layer_axis=True)
    heads, rows, layers = (spec.heads - 1, 0), (4, 1, 5), (every[-1], 0)
    part = replace(whole, heads=heads, rows=rows, layers=layers)
    all_of_it, some = run([Item(card=card, input=given, selection=chosen) for chosen in (whole, part)])
    for output, tensor in some.items():
        assert tensor.shape == shape_of(output, part, card.dims(6)), output
    close = {"rtol": 1e-5, "atol": 1e-6}
    for output in ("z_heads", "output_norms"):
        wanted = all_of_it[output][list(layers)][:, list(heads)][:, :, list(rows)]
        np.testing.assert_allclose(some[output], wanted, **close)
    np.testing.assert_array_equal(some["embedded"], all_of_it["embedded"][list(rows)])


def test_with_a_memory_and_a_mask_they_are_of_its_keys() -> None:
    spec = SPECS["grouped, d_v differs"]
    card, slow = build(spec)
    x, memory = vectors(spec, 4), vectors(spec, 7, 1)
    mask = np.array([True, False, True, True, False, True, True])
    given = Tokens(embeddings=x, memory=memory, mask=mask)
    (made,) = run([Item(card=card, input=given, selection=CHOSEN)])
    _, weights, _ = slow.run(x, memory, mask)
    np.testing.assert_allclose(made["z_heads"], slow.head_z[0], atol=2e-5)
    np.testing.assert_allclose(made["output_norms"], slow.output_norms(0, weights[0]), atol=2e-5)
    assert not made["output_norms"][:, :, ~mask].any()
    np.testing.assert_allclose(made["embedded"], x, atol=1e-6)


def test_what_is_embedded_may_be_asked_alone_and_computes_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS["post-norm encoder"]
    card, slow = build(spec)
    computed: list[int] = []
    monkeypatch.setattr(Block, "before", lambda _, x: computed.append(len(x)) or x)
    ids, types = np.array([3, 10, 0, 3]), np.array([0, 0, 1, 1])
    alone = Selection(outputs=("embedded",), layers=(0, 2), layer_axis=True)
    (made,) = run([Item(card=card, input=Tokens(ids=ids, type_ids=types), selection=alone)])
    assert computed == []
    rows = slow.p["embedding.tokens.weight"][ids] - slow.p["embedding.types.weight"][0]
    wanted = slow.embed(rows + slow.p["embedding.types.weight"][types])
    np.testing.assert_allclose(made["embedded"], wanted, atol=1e-5)


def test_who_asks_for_embedded_alone_leaves_a_batch_and_the_others_go_on() -> None:
    spec = SPECS["post-norm encoder"]
    card, slow = build(spec)
    inputs = [vectors(spec, length) for length in (5, 3, 6)]
    asked = (("embedded",), ("z",), ("embedded", "hidden"))
    items = [
        Item(card=card, input=Tokens(embeddings=x), selection=Selection(outputs=names, layers=(2,)))
        for x, names in zip(inputs, asked, strict=True)
    ]
    batch = run(items)
    assert [tuple(made) for made in batch] == list(asked)
    for x, made in zip(inputs, batch, strict=True):
        z, _, hidden = slow.run(x)
        wanted = {"embedded": slow.embed(x.astype(np.float64)), "z": z[2], "hidden": hidden[2]}
        for output, tensor in made.items():
            np.testing.assert_allclose(tensor, wanted[output], atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_result_that_overflows_its_dtype_fails_and_its_neighbour_does_not(dtype: str) -> None:
    spec = SPECS["bare"]
    card, _ = build(spec)
    large = 1e38 if dtype != "float16" else 1e6
    for name in ("z_heads", "output_norms", "embedded"):
        chosen = Selection(outputs=(name,), dtype=dtype)  # type: ignore[arg-type]
        inputs = [vectors(spec, 4), vectors(spec, 4) * large]
        items = [Item(card=card, input=Tokens(embeddings=x), selection=chosen) for x in inputs]
        with torch.inference_mode():
            sound, spoilt = card.handle.run(items)  # type: ignore[attr-defined]
        assert isinstance(sound, Answer)
        if dtype == "float16" or name != "embedded":
            assert isinstance(spoilt, Failure)
            assert spoilt.code == "not_finite"


def test_lengths_are_sound_at_the_ends_of_float32() -> None:
    """Squares of 1e30 are no float32, nor are those of 1e-30."""
    chance = torch.Generator().manual_seed(0)
    matrix, values = (torch.randn(shape, generator=chance) for shape in ((12, 8), (2, 5, 4)))
    lengths = OutputLengths(lambda: matrix, heads=2)
    plain = lengths(values, (0, 1), group=1)
    for size in (1e30, 1e-30):
        np.testing.assert_allclose(lengths(values * size, (1, 0), group=1) / size, plain.flip(0), rtol=1e-5)
        ours = value_lengths(values * size, (0,), group=1)
        np.testing.assert_allclose(ours / size, values[:1].norm(dim=-1), rtol=1e-5)


def test_a_value_that_its_head_forgets_has_no_length() -> None:
    """v·W_O^h of a v that W_O^h maps to nothing is 0, not what rounding leaves of large numbers."""
    matrix = torch.zeros(6, 4)
    matrix[0, :2] = torch.tensor([1000.0, 1.0])
    values = torch.tensor([[[1.0, -1000.0], [2.0, 0.0]]])
    lengths = OutputLengths(lambda: matrix, heads=2)(values, (0, 1), group=2)
    np.testing.assert_allclose(lengths, [[0.0, 2000.0], [0.0, 0.0]], atol=1e-3)
