"""Points of the residual stream: what modules of transformers read and give; nobody else notices."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.compiled.calls import Points
from models.compiled.native import Native, native
from models.device.steps import finish
from models.encoder.block import Block
from models.encoder.finish import STEP_ROWS
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.compiled import random
from tests.native_families import CASES, FIRST_WORD, WORDS
from tests.slow_stack import random_parameters
from tests.transformers_models import FOREIGN, save_random

POINTS = ("mid", "feed_forward", "residual")
EVERYTHING = (*POINTS, "hidden", "z", "embedded")

CLASSES = {
    "gpt2": "GPT2Model",
    "qwen3": "Qwen3Model",
    "gemma2": "Gemma2Model",
    "bert": "BertModel",
    "gpt_neox": "GPTNeoXModel",
}
# Of each block: the module that reads mid, the one that gives what is added, and the block itself.
PLACES: dict[str, tuple[str, str, str]] = {
    "gpt2": ("h.{}.ln_2", "h.{}.mlp", "h.{}"),
    "qwen3": (
        "layers.{}.post_attention_layernorm",
        "layers.{}.mlp",
        "layers.{}",
    ),
    "gemma2": (
        "layers.{}.pre_feedforward_layernorm",
        "layers.{}.post_feedforward_layernorm",
        "layers.{}",
    ),
    "bert": (
        "encoder.layer.{}.attention.output.LayerNorm",
        "encoder.layer.{}.output.dense",
        "encoder.layer.{}",
    ),
}


@pytest.fixture(scope="module", params=PLACES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, nn.Module, TorchRuntime]:
    repository = tmp_path_factory.mktemp("repository")
    model_type, changes = CASES[request.param]
    model = save_random(model_type, changes, CLASSES[model_type], repository / "model")
    runtime = TorchRuntime(repository, models=("model",), device="cpu", dtype="float32")
    return request.param, model, runtime


def item(runtime: TorchRuntime, ids: np.ndarray, outputs: tuple[str, ...] = EVERYTHING) -> Item:
    card = runtime.card("model")
    chosen = Selection(outputs=outputs, layers=tuple(range(card.layers)), layer_axis=True)
    return Item(card=card, input=Tokens(ids=ids), selection=chosen)


def run(runtime: TorchRuntime, *items: Item) -> list[dict[str, np.ndarray]]:
    answers = runtime.run(items).answers
    assert all(isinstance(answer, Answer) for answer in answers)
    return [answer.tensors for answer in answers if isinstance(answer, Answer)]


def some_ids(length: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(FIRST_WORD, WORDS, length)


def noted(model: nn.Module, places: tuple[str, ...], layers: int, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return what modules of transformers' model read (the first) and give (the others), a layer each."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    hooks = []

    def keep(name: str, layer: int, *, given: bool) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            found = inputs[0] if given else output
            seen[name, layer] = (found[0] if isinstance(found, tuple) else found).detach().view(len(ids), -1)

        return hook

    for (name, place), layer in itertools.product(zip(POINTS, places, strict=True), range(layers)):
        module = model.get_submodule(place.format(layer))
        hooks.append(module.register_forward_hook(keep(name, layer, given=name == "mid")))
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(ids)[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.stack([seen[name, at] for at in range(layers)]).numpy() for name in POINTS}


def test_they_are_what_transformers_modules_read_and_give(
    served: tuple[str, nn.Module, TorchRuntime],
) -> None:
    family, model, runtime = served
    ids = some_ids(23)
    (found,) = run(runtime, item(runtime, ids))
    expected = noted(model, PLACES[family], runtime.card("model").layers, ids)
    for name, numbers in expected.items():
        largest = max(1.0, float(np.abs(numbers).max()))
        np.testing.assert_allclose(found[name], numbers, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_residual_is_hidden_but_for_the_final_norm(served: tuple[str, nn.Module, TorchRuntime]) -> None:
    family, _, runtime = served
    (found,) = run(runtime, item(runtime, some_ids(9)))
    np.testing.assert_array_equal(found["residual"][:-1], found["hidden"][:-1])
    assert np.array_equal(found["residual"][-1], found["hidden"][-1]) == (family == "bert")


def test_whoever_asks_changes_no_bit_of_anything_else(served: tuple[str, nn.Module, TorchRuntime]) -> None:
    *_, runtime = served
    ids, other = some_ids(23), some_ids(11, seed=4)
    (alone,) = run(runtime, item(runtime, ids, ("hidden", "z")))
    (asked,) = run(runtime, item(runtime, ids))
    beside, _ = run(runtime, item(runtime, ids, ("hidden", "z")), item(runtime, other))
    for name in ("hidden", "z"):
        np.testing.assert_array_equal(asked[name], alone[name])
        np.testing.assert_array_equal(beside[name], alone[name])


def test_a_parallel_block_adds_both_to_what_entered_it(tmp_path: Path) -> None:
    model_type, changes = CASES["gpt_neox"]
    model = save_random(model_type, changes, CLASSES[model_type], tmp_path / "model")
    runtime = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    assert model.config.use_parallel_residual
    (found,) = run(runtime, item(runtime, some_ids(17)))
    entered = np.concatenate((found["embedded"][None], found["residual"][:-1]))
    np.testing.assert_allclose(found["mid"], entered + found["z"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["residual"], found["mid"] + found["feed_forward"], rtol=1e-6, atol=1e-6)


def test_a_model_without_what_they_are_of_does_not_offer_them(tmp_path: Path) -> None:
    model_type, changes = CASES["bert"]
    save_random(model_type, changes | FOREIGN, CLASSES[model_type], tmp_path / "foreign")
    runtime = TorchRuntime(tmp_path, models=("foreign",), device="cpu", dtype="float32")
    assert set(POINTS).isdisjoint(runtime.card("foreign").outputs)
    assert "hidden" in runtime.card("foreign").outputs


@pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")
@pytest.mark.parametrize("placement", ["post", "pre", "sandwich", "parallel"])
@pytest.mark.parametrize("kind", ["none", "layer", "rms"])
def test_one_call_fills_what_the_operators_do(
    ours: Native, monkeypatch: pytest.MonkeyPatch, placement: str, kind: str
) -> None:
    monkeypatch.setattr("models.compiled.native.load_native", lambda: ours)
    monkeypatch.setattr("models.encoder.linear._fastest", {})
    monkeypatch.setattr("models.encoder.linear._measured", lambda *_, preferred: preferred)
    parallel = placement == "parallel"
    spec = ModelSpec(
        d_model=40,
        residual=True,
        parallel=parallel,
        norm=NormSpec(kind=kind, placement="pre" if parallel else placement),  # type: ignore[arg-type]
        feed_forward=FeedForwardSpec(d_ff=75, kind="gated", activation="silu"),
    )
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    whole, apart = Block(spec, parameters, 0), Block(spec, parameters, 0, in_one_call=False)
    assert whole.in_one is not None
    for rows in (1, 17, 2 * STEP_ROWS + 3):
        x, z = random(rows, 40), random(rows, 40, seed=1)
        filled = [Points(torch.empty(rows, 40), torch.empty(rows, 40)) for _ in range(2)]
        y = finish(whole.finish(x, z, filled[0]))
        torch.testing.assert_close(y, finish(whole.finish(x, z)), rtol=0, atol=0)
        finish(apart.finish(x, z, filled[1]))
        for one, other in zip(
            (filled[0].mid, filled[0].feed_forward), (filled[1].mid, filled[1].feed_forward), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=2e-5, atol=1e-5)


def test_points_that_do_not_fit_never_reach_c() -> None:
    if native() is None:
        pytest.skip("Heed was installed without a C compiler")
    spec = ModelSpec(d_model=40, residual=True, feed_forward=FeedForwardSpec(d_ff=75))
    block = Block(spec, {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}, 0)
    x = random(3, 40)
    for wrong, said in (
        (random(4, 40), "as many rows"),
        (random(3, 39), "rows are float32"),
        (random(40, 3).mT, "follow each other"),
    ):
        with pytest.raises(ValueError, match=said):
            finish(block.finish(x, x, Points(mid=wrong)))
