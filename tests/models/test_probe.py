"""The probe decides by arithmetic: sound models load whatever their depth, and unsound ones never do."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from models.errors import SpecError
from models.outputs import Selection
from models.pretrained.interception import attend
from models.pretrained.probe import probe
from models.pretrained.probe_samples import Trial, probe_rows, unreached
from models.pretrained.tower import Tower
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from tests.tiny_architectures import agreement, scatter, tiny
from tests.transformers_models import FOREIGN

TOLERANCE = 1e-5
SEEDS = range(6)
T5_24 = {"num_layers": 24, "num_decoder_layers": 2}
MODERNBERT_48 = {
    "num_hidden_layers": 48,
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
    **FOREIGN,
}
DEEP = {
    "T5 of 24 layers": ("t5", T5_24, "T5ForConditionalGeneration"),
    "ModernBERT of 48": ("modernbert", MODERNBERT_48, "ModernBertModel"),
}
LLAMA_4 = {
    "no_rope_layers": [1, 0],
    "attention_chunk_size": 500,
    "attn_temperature_tuning": True,
    "attn_scale": 0.7,
    "intermediate_size_mlp": 48,
    "max_position_embeddings": 2048,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def served(model: Any, folder: Path) -> TorchRuntime:
    model.save_pretrained(folder / "model")
    return TorchRuntime(folder, models=("model",), device="cpu", dtype="float32")


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_deep_model_loads_and_agrees_alone_and_in_a_ragged_batch_of_eight(name, seed, tmp_path) -> None:
    model_type, changes, cls_name = DEEP[name]
    model = tiny(model_type, changes=changes, cls_name=cls_name, seed=seed, scattered=False)
    runtime = served(model, tmp_path)
    for card in runtime.cards():
        assert agreement(runtime, card, model)[0] <= TOLERANCE


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_where_rounding_grows_from_layer_to_layer_it_is_no_further_off_than_eager(
    name, seed, tmp_path
) -> None:
    model_type, changes, cls_name = DEEP[name]
    model = tiny(model_type, changes=changes, cls_name=cls_name, seed=seed)
    runtime = served(model, tmp_path)
    worst, allowed = agreement(runtime, runtime.card("model"), model)
    assert worst <= allowed


@pytest.mark.parametrize("step", [20, 500, 8192])
def test_what_reads_where_a_row_stands_in_the_batch_is_not_packed(step, tmp_path) -> None:
    """Llama 4's temperature has a step every `floor_scale` rows, wherever the sequence begins."""
    model = tiny("llama4_text", changes=LLAMA_4 | {"floor_scale": step})
    runtime = served(model, tmp_path)
    card = runtime.card("model")
    assert card.kernel.startswith("transformers, by length, ")
    assert ("floor_scale is 8192" in str(card.spec.get("batched"))) == (step == 8192)
    chance = np.random.default_rng(0)
    chosen = Selection(outputs=("weights",), layers=(0, 1), layer_axis=True)
    items = [
        Item(card=card, input=Tokens(ids=chance.integers(3, 50, length)), selection=chosen)
        for length in (60, 600, 15)
    ]
    behind, alone = runtime.run(items).answers[2], runtime.run(items[2:]).answers[0]
    assert isinstance(behind, Answer)
    assert isinstance(alone, Answer)
    np.testing.assert_allclose(behind.tensors["weights"], alone.tensors["weights"], atol=TOLERANCE)


def test_the_long_sequence_reaches_past_numbers_that_may_be_positions() -> None:
    config = transformers.Llama4TextConfig(attention_chunk_size=700, floor_scale=400)
    assert probe_rows(config, None) > 700
    assert probe_rows(config, 512) == 512
    assert unreached(config) is None
    assert "attention_chunk_size" in str(unreached(transformers.Llama4TextConfig(attention_chunk_size=4096)))
    for ordinary in (transformers.ModernBertConfig(), transformers.BartConfig(), transformers.Qwen3Config()):
        assert unreached(ordinary) is None
        assert probe_rows(ordinary, None) == 300


def probed(model: Any, width: int = 32) -> Tower:
    """Probe a model as it stands, hooks and all."""
    table = model.get_input_embeddings()
    tower = Tower(
        forward=model,
        parameters=frozenset(inspect.signature(model.forward).parameters),
        device=torch.device("cpu"),
        dtype=torch.float32,
        layers=0,
        table=table,
        vocabulary=table.num_embeddings,
    )
    linears = [one for one in model.modules() if isinstance(one, nn.Linear)]
    trial = Trial(width=width, padding=1, special=(0, 2), positions=64)
    probe(tower, model.set_attn_implementation, linears, trial, packs=True)
    return tower


def small(model_type: str, **changes: Any) -> Any:
    return tiny(model_type, changes=changes).requires_grad_(requires_grad=False)


def test_sequences_that_change_one_another_when_stacked_run_one_by_one() -> None:
    model = small("data2vec-text")
    layer = model.encoder.layer[0]
    assert probed(model).batches == "by length"
    layer.register_forward_hook(lambda _module, _given, made: made + 0.01 * made.mean(0, keepdim=True))
    assert probed(model).batches == "one by one"


def test_what_depends_on_the_whole_row_is_not_packed() -> None:
    model = small("nomic_bert")
    assert probed(model).batches == "packed"
    model.embeddings.register_forward_hook(
        lambda _module, _given, made: made - 0.01 * made.mean(1, keepdim=True)
    )
    assert probed(model).batches == "by length"


@pytest.mark.parametrize("model_type", ["modernbert", "nomic_bert", "data2vec-text", "qwen3_moe"])
@pytest.mark.parametrize("seed", range(3))
def test_attention_that_is_off_by_a_thousandth_is_refused(model_type, seed, monkeypatch) -> None:
    """A deep and chaotic model has a wider limit; even there an error is far larger than rounding."""
    torch.manual_seed(seed)
    model = small(model_type)
    scatter(model)

    def scaled(*given: Any, scaling: float | None = None, **more: Any) -> Any:
        return attend(*given, scaling=None if scaling is None else scaling * 1.001, **more)

    registered = transformers.AttentionInterface()
    monkeypatch.setitem(registered._global_mapping, "heed", scaled)
    with pytest.raises(SpecError, match="away from eager attention"):
        probed(model)
