"""Architectures run by transformers' own code, our attention inside, against its eager attention."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.compiled.native import native
from models.device.steps import finish
from models.errors import SpecError
from models.halves import widened
from models.outputs import OUTPUTS, Selection, made_of
from models.pretrained.tower import Tower
from models.protocol import Answer, Failure, Item, ModelCard, Tokens
from models.runtime import TorchRuntime
from tests.halved import HALVES, halved
from tests.transformers_models import FOREIGN, eager_outputs, save_random

TOLERANCE = 1e-5
LENGTHS = (40, 1, 7, 23, 2, 40, 16, 31)
SOURCES = (3, 12, 1, 23, 12, 12, 5, 30)
FIRST_WORD, WORDS = 3, 50

SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": WORDS}
SIZES = SPECIAL | {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
MODERN = SIZES | {
    "local_attention": 8,
    "global_attn_every_n_layers": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
    **FOREIGN,
}
T5 = {"vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
BART = SPECIAL | {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "scale_embedding": True,
}
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
}
GPT_OSS = GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 5}
SCALED_ROTARY = {
    "rope_parameters": {
        "rope_type": "llama3",
        "factor": 8.0,
        "rope_theta": 1e4,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
}
GPT2 = SPECIAL | {
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "scale_attn_by_inverse_layer_idx": True,
}
GEMMA3 = GROUPED | {
    "sliding_window": 5,
    "attn_logit_softcapping": 2.0,
    "use_bidirectional_attention": True,
    **FOREIGN,
}

CASES = {
    "modernbert": ("modernbert", MODERN, "ModernBertForMaskedLM"),
    "t5 encoder": ("t5", T5, "T5EncoderModel"),
    "t5": ("t5", T5 | {"decoder_start_token_id": 0}, "T5ForConditionalGeneration"),
    "bart": ("bart", BART, "BartForConditionalGeneration"),
    "vit": ("vit", VIT, "ViTModel"),
    "gpt-oss, sinks": ("gpt_oss", GPT_OSS, "GptOssForCausalLM"),
    "olmo, scaled rotary": ("olmo", GROUPED | SCALED_ROTARY, "OlmoForCausalLM"),
    "gemma3, softcap, both ways": ("gemma3_text", GEMMA3, "Gemma3TextModel"),
    "albert, one shared layer": ("albert", SIZES | {"embedding_size": 16} | FOREIGN, "AlbertModel"),
    "gpt2, scaled by layer": ("gpt2", GPT2, "GPT2Model"),
}
PACKED = {
    "modernbert",
    "gpt-oss, sinks",
    "olmo, scaled rotary",
    "albert, one shared layer",
    "gpt2, scaled by layer",
}


class Case:
    """One architecture: the same weights in transformers, eager, and served from the folder it saved."""

    def __init__(self, name: str, repository: Path) -> None:
        model_type, changes, self.head = CASES[name]
        self.name = name
        self.repository = repository
        self.eager = save_random(model_type, changes, self.head, repository / "model")
        self.runtime = TorchRuntime(repository, models=("model",), device="cpu", dtype="float32")

    def ask(
        self,
        card: ModelCard,
        inputs: list[Tokens],
        names: tuple[str, ...] = ("weights", "hidden", "embedded"),
    ) -> list[dict[str, np.ndarray]]:
        chosen = Selection(outputs=names, layers=tuple(range(card.layers)), layer_axis=True)
        answers = self.runtime.run([Item(card=card, input=one, selection=chosen) for one in inputs]).answers
        assert all(isinstance(answer, Answer) for answer in answers), answers
        return [answer.tensors for answer in answers]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("repository"))


def sequences(card: ModelCard, seed: int = 0) -> list[Tokens]:
    chance = np.random.default_rng(seed)
    memories: list[np.ndarray | None] = [None] * len(LENGTHS)
    if card.part:
        memories = [chance.standard_normal((source, card.d_model), dtype=np.float32) for source in SOURCES]
    if card.vocabulary is None:
        vectors = [chance.standard_normal((length, card.d_model), dtype=np.float32) for length in LENGTHS]
        return [Tokens(embeddings=one, memory=memory) for one, memory in zip(vectors, memories, strict=True)]
    ids = [chance.integers(FIRST_WORD, WORDS, length) for length in LENGTHS]
    return [Tokens(ids=one, memory=memory) for one, memory in zip(ids, memories, strict=True)]


def assert_close(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        assert actual[name].shape == array.shape, name
        scale = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(actual[name] / scale, array / scale, rtol=0, atol=TOLERANCE, err_msg=name)


def test_every_attention_agrees_alone_and_in_a_ragged_batch_of_eight(case: Case) -> None:
    for card in case.runtime.cards():
        inputs = sequences(card)
        expected = [eager_outputs(case.eager, given, card.part) for given in inputs]
        for together, one, reference in zip(case.ask(card, inputs), inputs, expected, strict=True):
            assert_close(together, reference)
            (alone,) = case.ask(card, [one])
            assert_close(alone, reference)


def test_sequences_are_packed_where_the_architecture_allows_it(case: Case) -> None:
    packed = case.runtime.card("model").kernel.startswith("transformers, packed, ")
    assert packed == (case.name in PACKED or case.name.startswith("gemma3"))


@pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")
def test_whatever_the_rule_sequences_are_computed_by_compiled_code(case: Case, computed) -> None:
    card = case.runtime.card("model")
    computed()
    case.ask(card, sequences(card), ("weights",))
    assert {backend for _, backend, _ in computed()} == {"compiled"}
    assert "compiled+reference:" in card.kernel


def test_an_encoder_decoder_model_is_three_cards_and_an_encoder_one(case: Case) -> None:
    names = [(card.name, card.part, card.cross) for card in case.runtime.cards()]
    parts = [("model.cross", "cross", True), ("model.decoder", "decoder", True)]
    assert names == [("model", "", False), *(parts if case.name in ("t5", "bart") else [])]
    assert case.runtime.memory()["weights"] == sum(one.nbytes for one in served_parameters(case.eager))


def served_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters of the model without a table of words that is not its embedding's."""
    tables = ("lm_head", "decoder.weight")
    bare = [one for name, one in model.named_parameters() if not name.startswith(tables)]
    return bare if not model.config.is_encoder_decoder else list(model.parameters())


def test_every_offered_output_has_its_declared_shape_and_agrees_with_the_weights(case: Case) -> None:
    for card in case.runtime.cards():
        given = sequences(card)[3]
        names = tuple(name for name in card.outputs if OUTPUTS[name].of != "sums")  # of what is chosen
        (made,) = case.ask(card, [given], names)
        inside = {"mid", "feed_forward", "residual"}
        assert set(OUTPUTS) - set(made) <= {"pooled", "rollout", *inside, *made_of("sums", "words")}
        weights = made["weights"]
        np.testing.assert_allclose(made["weights_mean"], weights.mean(1), atol=TOLERANCE)
        np.testing.assert_allclose(made["received"], weights.sum(-2), atol=1e-4)
        if "sinks" not in case.name:
            np.testing.assert_allclose(weights.sum(-1), 1, atol=TOLERANCE)
        values = np.repeat(made["values"], card.heads // card.key_heads, axis=1)
        norms = weights * np.linalg.norm(values, axis=-1)[:, :, None, :]
        np.testing.assert_allclose(made["value_norms"], norms, atol=1e-4)
        if "rollout" in made:
            rollout = np.eye(weights.shape[-1])
            for mean in made["weights_mean"]:
                mixed = mean + np.eye(len(mean))
                rollout = mixed / mixed.sum(-1, keepdims=True) @ rollout
            np.testing.assert_allclose(made["rollout"], rollout, atol=TOLERANCE)


def test_z_is_the_output_projection_of_the_weighted_values(case: Case) -> None:
    """By its definition: the same weights and values times W_O, taken from the model by its name."""
    for card in case.runtime.cards():
        (made,) = case.ask(card, [sequences(card)[3]], ("z", "weights", "values"))
        values = np.repeat(made["values"], card.heads // card.key_heads, axis=1)
        heads_LTD = (made["weights"] @ values).transpose(0, 2, 1, 3).reshape(*made["z"].shape[:2], -1)
        for layer, projection in enumerate(output_projections(case.eager, card.part)):
            with torch.no_grad():
                z = projection(torch.from_numpy(heads_LTD[layer])).numpy()
            np.testing.assert_allclose(made["z"][layer], z, rtol=1e-4, atol=1e-4)


def test_each_head_and_its_part_of_w_o_make_z_and_the_norms_of_it(case: Case) -> None:
    """Kobayashi et al. 2020: one vector a head, query and key, in float64, every one by itself."""
    names = ("z", "z_heads", "output_norms", "weights", "values")
    for card in case.runtime.cards():
        given = sequences(card)[2 if card.part else 4]
        (made,) = case.ask(card, [given], names)
        weights, group = made["weights"].astype(np.float64), card.heads // card.key_heads
        for layer, projection in enumerate(output_projections(case.eager, card.part)):
            matrix = projection.weight.double().detach().numpy()
            matrix = matrix if type(projection).__name__ == "Conv1D" else matrix.T
            parts = np.split(matrix, card.heads)  # [d_v, d_model] each
            bias = 0 if projection.bias is None else projection.bias.detach().numpy()
            z = sum(made["z_heads"][layer][h] @ part for h, part in enumerate(parts)) + bias
            np.testing.assert_allclose(made["z"][layer], z, rtol=1e-4, atol=1e-4)
            norms = np.zeros_like(weights[layer])
            for h, i, j in np.ndindex(norms.shape):
                value = made["values"][layer][h // group, j].astype(np.float64)
                norms[h, i, j] = np.linalg.norm(weights[layer][h, i, j] * value @ parts[h])
            np.testing.assert_allclose(made["output_norms"][layer], norms, rtol=1e-5, atol=1e-6)


def test_what_enters_the_first_layer_is_had_without_computing_any(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    counted = Tower.layer_of
    monkeypatch.setattr(Tower, "layer_of", lambda self, call: calls.append(call) or counted(self, call))
    for card in case.runtime.cards():
        given = sequences(card)
        whole = case.ask(card, given, ("embedded", "weights"))
        assert calls
        calls.clear()
        alone = case.ask(card, given, ("embedded",))
        assert not calls
        rows = Selection(outputs=("embedded",), layers=(card.layers - 1,), rows=(3, 0))
        (answer,) = case.runtime.run([Item(card=card, input=given[0], selection=rows)]).answers
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.tensors["embedded"], alone[0]["embedded"][[3, 0]])
        for one, other in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(one["embedded"], other["embedded"])


def test_whole_model_is_left_in_every_layer_and_what_runs_meanwhile_changes_nothing(case: Case) -> None:
    for card in case.runtime.cards():
        chosen = Selection(outputs=("z",), layers=(card.layers - 1,))
        first, second = (Item(card=card, input=one, selection=chosen) for one in sequences(card)[:2])
        alone = [case.runtime.run([one]).answers[0] for one in (first, second)]
        between: list[Answer | Failure] = []
        also = partial(case.runtime.run, [second])
        result = finish(case.runtime.steps([first]), lambda also=also, to=between: to.extend(also().answers))
        assert len(between) >= card.layers
        for found, expected in [(result.answers[0], alone[0]), *((one, alone[1]) for one in between)]:
            assert isinstance(found, Answer)
            assert isinstance(expected, Answer)
            np.testing.assert_array_equal(found.tensors["z"], expected.tensors["z"])


def output_projections(model: torch.nn.Module, part: str) -> list[torch.nn.Module]:
    """Return W_O of every layer by the names that transformers gives them."""
    side = {"": "encoder.", "decoder": "decoder.", "cross": "decoder."}[part]
    modules = {
        name: one
        for name, one in model.named_modules()
        if side in name or not any(word in name for word in ("encoder.block", "decoder.", "encoder.layers"))
    }
    endings = {
        "": (
            "attn.Wo",
            "SelfAttention.o",
            "self_attn.out_proj",
            "self_attn.o_proj",
            "attention.o_proj",
            "attn.c_proj",
        ),
        "decoder": ("SelfAttention.o", "self_attn.out_proj"),
        "cross": ("EncDecAttention.o", "encoder_attn.out_proj"),
    }[part]
    found = [one for name, one in modules.items() if name.endswith(endings)]
    if not found:  # ALBERT: one layer, used three times
        found = [one for name, one in modules.items() if name.endswith("attention.dense")] * 3
    return found


def test_rows_heads_and_an_early_layer_are_those_of_the_whole(case: Case) -> None:
    for card in case.runtime.cards():
        given = sequences(card)[3]
        (whole,) = case.ask(card, [given], ("z", "weights", "z_heads", "output_norms"))
        names = ("z", "weights", "z_heads", "output_norms")
        part = Selection(outputs=names, layers=(0,), heads=(3, 1), rows=(5, 0))
        (answer,) = case.runtime.run([Item(card=card, input=given, selection=part)]).answers
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.tensors["z"], whole["z"][0][[5, 0]])
        for name in names[1:]:
            wanted = whole[name][0][[3, 1]][:, [5, 0]]
            np.testing.assert_allclose(answer.tensors[name], wanted, atol=TOLERANCE)


def test_a_masked_key_is_not_attended_and_its_neighbours_share_what_it_had(case: Case) -> None:
    for card in case.runtime.cards():
        given = sequences(card)[3]
        (whole,) = case.ask(card, [given], ("weights",))
        mask = np.ones(whole["weights"].shape[-1], dtype=np.bool_)
        mask[1] = False
        masked = Tokens(ids=given.ids, embeddings=given.embeddings, memory=given.memory, mask=mask)
        (made,) = case.ask(card, [masked], ("weights",))
        assert not made["weights"][..., 1].any()
        if "sinks" not in case.name:
            kept = np.where(mask, whole["weights"][0], 0)
            sums = kept.sum(-1, keepdims=True)
            expected = np.divide(kept, sums, out=np.zeros_like(kept), where=sums > 0)
            np.testing.assert_allclose(made["weights"][0], expected, atol=1e-4)


def test_halves_are_answered_bit_by_bit_as_their_float32(case: Case) -> None:
    chance = np.random.default_rng(1)
    for card in case.runtime.cards():
        if "embeddings" not in card.inputs:
            continue
        for kind in HALVES:
            x, y = (halved(chance.standard_normal((5, width)), kind) for width in (card.width, card.d_model))
            memory = y if card.part else None
            narrow = Tokens(embeddings=x, memory=memory)
            wide = Tokens(embeddings=widened(x), memory=None if memory is None else widened(memory))
            (found,), (expected,) = (case.ask(card, [one]) for one in (narrow, wide))
            assert {name: one.tobytes() for name, one in found.items()} == {
                name: one.tobytes() for name, one in expected.items()
            }


def test_a_decoder_without_memory_is_refused_alone(case: Case) -> None:
    for card in case.runtime.cards():
        if card.part:
            chosen = Selection(outputs=("weights",), layers=(0,))
            good = sequences(card)[2]
            bad = Tokens(ids=good.ids)
            both = [Item(card=card, input=given, selection=chosen) for given in (bad, good)]
            refused, answered = case.runtime.run(both).answers
            assert isinstance(refused, Failure)
            assert refused.code == "invalid"
            assert isinstance(answered, Answer)


def test_int8_is_refused_with_the_reason(case: Case) -> None:
    with pytest.raises(
        SpecError, match=r"model runs through transformers' code .*no products of int8.*:bfloat16"
    ):
        TorchRuntime(case.repository, models=("model:int8",), device="cpu", dtype="float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_dtype_takes_half_the_memory_and_stays_near(case: Case, dtype: str) -> None:
    narrow = TorchRuntime(case.repository, models=(f"model:{dtype}",), device="cpu", dtype="float32")
    for card in case.runtime.cards():
        narrower = narrow.card(card.name)
        assert narrower.dtype == dtype
        assert narrower.bytes_resident <= 0.75 * card.bytes_resident  # T5 keeps some in float32
        inputs = sequences(card)
        for one, wide in zip(case.ask(narrower, inputs), case.ask(card, inputs), strict=True):
            assert np.abs(one["weights"] - wide["weights"]).mean() < (0.02 if dtype == "bfloat16" else 0.003)


@pytest.mark.parametrize(
    ("model_type", "changes", "head", "reason"),
    [
        ("bloom", {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "BloomModel", "0 times"),
        (
            "deberta-v2",
            SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
            "DebertaV2Model",
            "0 times",
        ),
    ],
)
def test_an_architecture_that_cannot_be_exact_is_refused_with_the_reason(
    model_type, changes, head, reason, tmp_path
) -> None:
    save_random(model_type, changes, head, tmp_path / "model")
    with pytest.raises(SpecError, match=reason) as refusal:
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    assert "model_type" in str(refusal.value)


def test_an_architecture_of_nobody_is_refused(tmp_path: Path) -> None:
    save_random("modernbert", MODERN, "ModernBertModel", tmp_path / "model")
    config = (tmp_path / "model" / "config.json").read_text().replace('"modernbert"', '"unheard-of"')
    (tmp_path / "model" / "config.json").write_text(config)
    with pytest.raises(SpecError, match="unheard-of"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")


def test_a_file_that_lacks_a_parameter_is_refused_with_its_name(tmp_path: Path) -> None:
    save_random("modernbert", MODERN, "ModernBertModel", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    del tensors["layers.1.attn.Wo.weight"]
    tensors["spare"] = torch.zeros(32, 32)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(SpecError, match=r"layers\.1\.attn\.Wo\.weight missing"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")


def test_a_configuration_larger_than_the_file_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    save_random("modernbert", MODERN, "ModernBertModel", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"vocab_size": 2**40}))
    with pytest.raises(SpecError, match="bytes of parameters"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    del config["layer_types"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2**40}))
    with pytest.raises(SpecError, match="num_hidden_layers"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    save_random("modernbert", MODERN, "ModernBertModel", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    with pytest.raises(SpecError, match="quantization_config"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
