"""Outputs made by compiled code on the way to z are those of the reference, whatever is chosen of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.compiled import native
from models.compiled.extents import EVERYTHING, Extent
from models.compiled.native import Native
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec
from models.outputs import Selection, expand, made_of
from models.protocol import Answer, Item, Tokens
from models.spec import ModelSpec
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

LENGTHS = (1, 5, 33, 70)
SPEC = ModelSpec(
    d_model=16, heads=4, kv_heads=2, layers=3, attention=AttentionSpec(causal=True), residual=True
)
EVERY = (*expand(["top_k"]), "weights", "entropy", "received", "lse", "weights_mean", "weights_max")
SELECTIONS = {
    "everything of a layer": Selection(outputs=EVERY, layers=(1,)),
    "all layers": Selection(outputs=EVERY, layers=(0, 1, 2), layer_axis=True, top_k=3),
    "heads": Selection(outputs=EVERY, layers=(2,), heads=(3, 0)),
    "a row": Selection(outputs=EVERY, layers=(2, 0), layer_axis=True, rows=(0,)),
    "no weights": Selection(outputs=("z", *expand(["top_k"]), "entropy"), layers=(2,)),
    "weights, z not": Selection(outputs=("weights",), layers=(2,), heads=(1,)),
    "more keys than compiled code finds": Selection(outputs=("z", *EVERY), layers=(2,), top_k=40),
    "spans": Selection(outputs=EVERY, layers=(2,), spans=((0, 1), (0, 1))),
    "scores as well": Selection(outputs=("scores", "value_norms", *EVERY), layers=(2,)),
    "rollout as well": Selection(outputs=("rollout", *EVERY), layers=(0, 2), layer_axis=True),
}


def items(selection: Selection) -> list[Item]:
    chance = np.random.default_rng(4)
    card = fake_card(
        d_model=16, heads=4, key_heads=2, d_k=SPEC.key_width, d_v=SPEC.value_width, layers=SPEC.layers
    )
    return [
        Item(
            card=card,
            input=Tokens(embeddings=chance.standard_normal((length, 16), dtype=np.float32)),
            selection=selection,
        )
        for length in LENGTHS
    ]


def answers(selection: Selection) -> list[Answer]:
    parameters = {name: torch.from_numpy(array) for name, array in random_parameters(SPEC).items()}
    found = Stack(SPEC, parameters, torch.device("cpu")).run(items(selection))
    assert all(isinstance(one, Answer) for one in found)
    return [one for one in found if isinstance(one, Answer)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_they_are_those_of_the_reference(
    ours: Native, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = replace(SELECTIONS[name], dtype=dtype)
    monkeypatch.setattr(native, "load_native", lambda: ours)
    found = answers(selection)
    monkeypatch.setattr(native, "load_native", lambda: None)
    step = {"float32": 0, "float16": 2**-10, "bfloat16": 2**-7}[dtype]
    for one, other in zip(found, answers(selection), strict=True):
        assert list(one.tensors) == list(other.tensors) == list(selection.outputs)
        for output, expected in other.tensors.items():
            array = one.tensors[output]
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
            if output == "top_k_keys":  # of equal weights, such as 0, any may come first
                weights = numbers(other.tensors["top_k_weights"])
                next_ties = np.diff(weights, axis=-1, append=weights[..., -1:]) == 0  # cut off: as if tied
                before_ties = np.diff(weights, axis=-1, prepend=np.inf) == 0
                assert ((array == expected) | next_ties | before_ties).all()
            else:
                np.testing.assert_allclose(
                    numbers(array), numbers(expected), rtol=step, atol=3e-5, err_msg=output
                )


def numbers(array: np.ndarray) -> np.ndarray:
    """Numbers of any dtype in float64; bfloat16 comes as its bit patterns."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def test_weights_are_not_held_where_only_what_is_made_of_them_is_asked(
    ours: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Extent] = []
    block = Native.block

    def spying(self: Native, x: torch.Tensor, extents: list[Extent], *more: object, **rule: object):
        asked.extend(extents)
        return block(self, x, extents, *more, **rule)

    monkeypatch.setattr(Native, "block", spying)
    monkeypatch.setattr(native, "load_native", lambda: ours)
    names = (*expand(["top_k"]), "entropy", "received", "lse")
    answers(Selection(outputs=("z", *names), layers=(1,)))
    below, of_layer = asked[: len(LENGTHS)], asked[len(LENGTHS) :]
    assert all(one == Extent(one.rows, selection=EVERYTHING) for one in below)
    assert [one.length for one in of_layer] == list(LENGTHS)
    assert all(one.lse and not one.weights for one in of_layer)
    assert all({*one.outputs} == {*names} - {"lse"} for one in of_layer)


@pytest.mark.parametrize("layers", [(2, 0), (1, 1)])
def test_weights_of_several_layers_are_written_where_they_are_returned(
    ours: Native, layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    into: list[torch.Tensor] = []
    block = Native.block

    def spying(self: Native, x: torch.Tensor, extents: list[Extent], *more: object, **rule: object):
        into.extend(one.into for one in extents if one.into is not None)
        return block(self, x, extents, *more, **rule)

    monkeypatch.setattr(Native, "block", spying)
    monkeypatch.setattr(native, "load_native", lambda: ours)
    chosen = Selection(outputs=("weights",), layers=layers, layer_axis=True, heads=(1, 3), dtype="float16")
    found = answers(chosen)
    of_layer = {layer: answers(replace(chosen, layers=(layer,), layer_axis=False)) for layer in layers}
    assert len(into) == len(LENGTHS) * len({*layers})
    assert all(any(np.shares_memory(one.tensors["weights"], it.numpy()) for it in into) for one in found)
    for place, layer in enumerate(layers):
        for one, alone in zip(found, of_layer[layer], strict=True):
            np.testing.assert_array_equal(one.tensors["weights"][place], alone.tensors["weights"])


def test_every_output_of_weights_has_one_way_at_least(ours: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load_native", lambda: ours)
    for name in made_of("weights", "top_k"):
        for one, length in zip(answers(Selection(outputs=(name,))), LENGTHS, strict=True):
            assert length in one.tensors[name].shape
