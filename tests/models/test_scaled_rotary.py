"""Rates of stretched rotary positions, and what is made of them, against transformers' own."""

import copy
import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from models.encoder.rates import rotary_rates
from models.encoder.rotary import rotaries
from models.errors import SpecError
from models.folders.huggingface.rotary import KINDS
from models.folders.huggingface.translate import translate
from models.outputs import Selection
from models.protocol import Item, Tokens
from models.runtime import TorchRuntime

ORIGINAL = "original_max_position_embeddings"
SIZES = {"vocab_size": 50, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 32}
LAYERS = {"num_hidden_layers": 2, "num_key_value_heads": 2}
FACTORS = {"short_factor": [1 + n / 9 for n in range(8)], "long_factor": [2 + n * n / 5 for n in range(8)]}
YARN = {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 3.5},
    "linear, old spelling": {"type": "linear", "factor": 8},
    "dynamic": {"rope_type": "dynamic", "factor": 2.7},
    "llama3": LLAMA3 | {ORIGINAL: 128},
    "llama3, of all positions": LLAMA3,
    "yarn": YARN,
    "yarn, steep": YARN | {"beta_fast": 2, "beta_slow": 1.9, "truncate": False},
    "yarn, scaled": YARN | {"attention_factor": 0.7},
    "yarn, by mscale": YARN | {"mscale": 0.707, "mscale_all_dim": 1.4},
    "yarn, by the ratio": YARN | {"factor": None},
    "longrope": {"rope_type": "longrope", **FACTORS, ORIGINAL: 100},
    "longrope, scaled": {"rope_type": "longrope", **FACTORS, ORIGINAL: 100, "attention_factor": 1.3},
    "longrope, by a factor": {"rope_type": "longrope", **FACTORS, ORIGINAL: 100, "factor": 16.0},
}


def config_of(scaling: dict[str, object], **changes: object) -> transformers.LlamaConfig:
    stated = dict(copy.deepcopy(scaling), rope_theta=5000.0)
    return transformers.LlamaConfig(
        **SIZES, **LAYERS, max_position_embeddings=256, rope_parameters=stated, **changes
    )


@pytest.mark.parametrize("name", SCALINGS)
def test_rates_and_magnitudes_are_those_of_transformers_number_by_number(name: str) -> None:
    config = config_of(SCALINGS[name])
    spec, _ = translate(json.loads(config.to_json_string()))
    at = spec.rotary_of(0)
    assert at.scaling is not None
    for longest in (1, 100, 101, 300, 4000):
        rates, magnitude = ROPE_INIT_FUNCTIONS[at.scaling.kind](config, "cpu", seq_len=torch.tensor(longest))
        torch.testing.assert_close(rotary_rates(at, 16, longest=longest), rates, rtol=1e-6, atol=0)
        assert at.scaling.magnitude == pytest.approx(magnitude, rel=1e-12)


def test_lengths_that_have_the_same_angles_share_a_table() -> None:
    for name, lengths, made in (("longrope", range(1, 400), 2), ("dynamic", (*range(1, 257), 300, 301), 3)):
        spec, _ = translate(json.loads(config_of(SCALINGS[name]).to_json_string()))
        (rotary, _) = rotaries(spec, torch.device("cpu"))
        tables = {length: rotary.tables(length) for length in lengths}
        assert len({id(one) for one in tables.values()}) == made
        assert all(one.positions >= length for length, one in tables.items())


def test_the_original_length_beside_the_parameters_counts_for_more() -> None:
    config = json.loads(config_of(SCALINGS["llama3"]).to_json_string()) | {ORIGINAL: 32}
    scaling = translate(config)[0].positions.scaling
    assert scaling is not None
    assert scaling.original_positions == 32


@pytest.mark.parametrize(
    ("name", "positions"),
    [("linear", 256), ("llama3", 256), ("longrope", 256), ("yarn", 256), ("dynamic", 691)],
)
def test_there_are_as_many_positions_as_the_original_ones_were_stretched_to(
    name: str, positions: int
) -> None:
    config = json.loads(config_of(SCALINGS[name]).to_json_string())
    assert translate(config)[0].positions.max_positions == positions
    if name == "yarn":
        longer = config | {"max_position_embeddings": 100}
        assert translate(longer)[0].positions.max_positions == 256


ODD = (None, True, 0, -1, 1, 2.5, 1e308, 10**400, "8", [], [1.0] * 8, [None] * 8, {}, {"factor": 2})
FAMILIES_THAT_TURN = ("llama", "gpt_neox", "phi3", "modernbert", "gemma3_text")


@pytest.mark.parametrize("model_type", FAMILIES_THAT_TURN)
def test_odd_parameters_are_read_or_refused_in_words(model_type: str) -> None:
    chance = random.Random(model_type)
    config = transformers.CONFIG_MAPPING[model_type]().to_dict()
    names = sorted(set().union(*KINDS.values()) | {"rope_theta", "partial_rotary_factor"})
    beside = [ORIGINAL, "rope_theta", "max_position_embeddings", "layer_types", "global_rope_theta"]
    read, refusals = 0, []
    for _ in range(300):
        kind = chance.choice([*KINDS, "su", 7])
        of = {"rope_type": kind, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        of = {key: value for key, value in of.items() if key in ("rope_type", *KINDS.get(kind, ()))}
        of |= {chance.choice(names): chance.choice(ODD) for _ in range(chance.randrange(3))}
        nested = {"full_attention": of, "sliding_attention": chance.choice([None, of, {}])}
        given = nested if "layer_types" in config and chance.random() < 0.9 else of
        odd = {chance.choice(beside): chance.choice(ODD)} if chance.random() < 0.3 else {}
        try:
            spec, _ = translate(config | {"rope_parameters": given} | odd)
        except SpecError as refusal:
            refusals.append(str(refusal))
            continue
        read += 1
        for layer in range(min(spec.layers, 2)):
            assert torch.isfinite(rotary_rates(spec.rotary_of(layer), spec.turned, longest=9000)).all()
    assert 10 < read < 290
    assert max(map(len, refusals)) < 500


@pytest.mark.parametrize("name", ["dynamic", "longrope", "yarn, by mscale"])
def test_each_sequence_of_a_ragged_batch_turns_as_it_does_alone_in_transformers(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    config = config_of(SCALINGS[name], attn_implementation="eager")
    eager = transformers.LlamaModel(config).eval()
    with torch.no_grad():
        for parameter in itertools.chain(*(layer.self_attn.parameters() for layer in eager.layers)):
            parameter.mul_(6)
    eager.save_pretrained(tmp_path / "model")
    runtime = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    card = runtime.card("model")
    assert "transformers" not in card.kernel
    lengths = [100, 101, 3, min(400, card.max_tokens), 60, 256]
    ids = [np.random.default_rng(length).integers(0, 50, length) for length in lengths]
    chosen = Selection(outputs=("weights", "hidden"), layers=(0, 1), layer_axis=True)
    items = [Item(card=card, input=Tokens(ids=one), selection=chosen) for one in ids]
    for one, answer in zip(ids, runtime.run(items).answers, strict=True):
        with torch.inference_mode():  # a copy: transformers keeps the angles of the longest so far
            out = copy.deepcopy(eager)(
                torch.from_numpy(one)[None], output_attentions=True, output_hidden_states=True
            )
        weights, hidden = torch.cat(out.attentions), torch.cat([out.hidden_states[1], out.last_hidden_state])
        np.testing.assert_allclose(answer.tensors["weights"], weights.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(answer.tensors["hidden"], hidden.numpy(), rtol=1e-5, atol=1e-5)
