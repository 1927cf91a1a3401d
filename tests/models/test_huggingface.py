from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file

from models.errors import SpecError
from models.folders.families import read_spec
from models.folders.huggingface.translate import FAMILIES, translate
from models.folders.parameters import parameter_shapes
from models.folders.weights import load_weights
from models.mechanism import ScalingSpec
from models.spec import ModelSpec

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": 40}
DISTILBERT = {"dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 20}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 20}
GROUPED = SIZES | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 8}
NEOX = SIZES | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}
ORIGINAL = "original_max_position_embeddings"
LLAMA3 = {"type": "llama3", "factor": 8.0, ORIGINAL: 8, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
OPT = {name: SIZES[name] for name in SIZES if name != "intermediate_size"} | {"ffn_dim": 24}

# model_type, what is changed from its defaults, and the class with a head, whose files wrap the bare model's.
CASES = [
    ("bert", SIZES, "BertForMaskedLM"),
    ("bert", SIZES | {"is_decoder": True, "type_vocab_size": 1}, "BertLMHeadModel"),
    ("roberta", SIZES | {"type_vocab_size": 1}, "RobertaForMaskedLM"),
    ("xlm-roberta", SIZES, "XLMRobertaForSequenceClassification"),
    ("camembert", SIZES, "CamembertForTokenClassification"),
    ("albert", SIZES | {"embedding_size": 8}, "AlbertForPreTraining"),
    ("albert", SIZES | {"embedding_size": 16, "num_hidden_groups": 2}, "AlbertForMaskedLM"),
    ("electra", SIZES | {"embedding_size": 8}, "ElectraForPreTraining"),
    ("electra", SIZES | {"embedding_size": 16}, "ElectraForMaskedLM"),
    ("distilbert", SPECIAL | DISTILBERT, "DistilBertForMaskedLM"),
    ("modernbert", SIZES, "ModernBertForMaskedLM"),
    (
        "modernbert",
        SIZES | {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
        "ModernBertForSequenceClassification",
    ),
    ("mpnet", SIZES, "MPNetForMaskedLM"),
    ("gpt2", SPECIAL | GPT2, "GPT2LMHeadModel"),
    ("gpt2", SPECIAL | GPT2 | {"n_inner": 20, "scale_attn_weights": False}, "GPT2LMHeadModel"),
    ("llama", GROUPED, "LlamaForCausalLM"),
    ("llama", GROUPED | {"attention_bias": True, "mlp_bias": True}, "LlamaForCausalLM"),
    ("mistral", GROUPED | {"sliding_window": 4}, "MistralForCausalLM"),
    ("phi3", GROUPED | {"sliding_window": 4}, "Phi3ForCausalLM"),
    ("qwen2", GROUPED, "Qwen2ForCausalLM"),
    ("qwen3", WIDE, "Qwen3ForCausalLM"),
    ("gemma", WIDE, "GemmaForCausalLM"),
    ("gemma2", WIDE | {"sliding_window": 4}, "Gemma2ForCausalLM"),
    ("gemma3_text", WIDE | {"sliding_window": 4}, "Gemma3ForCausalLM"),
    ("gpt_neox", NEOX, "GPTNeoXForCausalLM"),
    ("gpt_neox", NEOX | {"use_parallel_residual": False, "attention_bias": False}, "GPTNeoXForCausalLM"),
    ("opt", OPT, "OPTForCausalLM"),
    ("opt", OPT | {"do_layer_norm_before": False, "enable_bias": False}, "OPTForCausalLM"),
]
NAMES = [f"{name}-{at}" for at, (name, _, _) in enumerate(CASES)]


def config_of(model_type: str, changes: dict[str, object]) -> transformers.PretrainedConfig:
    return transformers.CONFIG_MAPPING[model_type](**changes)


def saved(model: transformers.PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("model_type", "changes", "head"), CASES, ids=NAMES)
def test_every_parameter_of_a_saved_family_is_found_with_its_exact_shape(model_type, changes, head, tmp_path):
    config = config_of(model_type, changes)
    bare = transformers.MODEL_MAPPING[type(config)](config)
    for name, model in (("bare", bare), ("headed", getattr(transformers, head)(config))):
        found = read_spec(saved(model, tmp_path / name))
        parameters = load_weights(found.weights, found.spec, found.naming)
        shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
        assert found.family == model_type
        assert shapes == parameter_shapes(found.spec)


@pytest.mark.parametrize(("model_type", "changes", "head"), CASES, ids=NAMES)
def test_every_number_of_the_model_is_loaded_once(model_type, changes, head, tmp_path):
    config = config_of(model_type, changes)
    model = transformers.MODEL_MAPPING[type(config)](config)
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor)
    found = read_spec(saved(model, tmp_path))
    loaded = load_weights(found.weights, found.spec, found.naming).values()
    own = [tensor for name, tensor in model.named_parameters() if not name.startswith("pooler.")]
    assert sorted(torch.cat([tensor.flatten() for tensor in loaded]).tolist()) == sorted(
        torch.cat([tensor.detach().flatten() for tensor in own]).tolist()
    )


def test_every_family_has_a_case():
    assert {name for name, _, _ in CASES} == set(FAMILIES)


# What a configuration must state; the rest has transformers' defaults.
STATED = {
    "distilbert": ("dim", "n_heads", "n_layers", "hidden_dim", "vocab_size"),
    "gpt2": ("n_embd", "n_head", "n_layer", "vocab_size"),
    "opt": ("hidden_size", "num_attention_heads", "num_hidden_layers", "ffn_dim", "vocab_size"),
}
USUAL = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_absent_field_means_what_transformers_takes_it_to_mean(model_type):
    stated = STATED.get(model_type, USUAL)
    config = transformers.CONFIG_MAPPING[model_type]()
    whole = {**config.to_dict(), "model_type": model_type}
    least = {name: whole[name] for name in (*stated, "model_type")}
    assert translate(least)[0] == translate(whole)[0]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_missing_size_is_refused_by_name(model_type):
    stated = STATED.get(model_type, USUAL)
    whole = {**transformers.CONFIG_MAPPING[model_type]().to_dict(), "model_type": model_type}
    for name in stated:
        with pytest.raises(SpecError, match=f"no {name}"):
            translate({key: value for key, value in whole.items() if key != name})


def test_fused_projection_of_gpt2_is_split_and_turned(tmp_path):
    model = transformers.GPT2Model(config_of("gpt2", SPECIAL | GPT2))
    found = read_spec(saved(model, tmp_path))
    loaded = load_weights(found.weights, found.spec, found.naming)
    x = torch.randn(5, 16)
    query, key, value = model.h[1].attn.c_attn(x).split(16, dim=-1)
    for name, expected in (("query", query), ("key", key), ("value", value)):
        weight, bias = (loaded[f"layers.1.attention.{name}.{part}"] for part in ("weight", "bias"))
        torch.testing.assert_close(torch.nn.functional.linear(x, weight, bias), expected)


def test_fused_projection_of_gpt_neox_is_split_head_by_head(tmp_path):
    model = transformers.GPTNeoXModel(config_of("gpt_neox", NEOX))
    torch.nn.init.normal_(model.layers[1].attention.query_key_value.bias)
    found = read_spec(saved(model, tmp_path))
    loaded = load_weights(found.weights, found.spec, found.naming)
    x = torch.randn(5, 16)
    fused = model.layers[1].attention.query_key_value(x).view(5, 4, 12)
    for name, expected in zip(("query", "key", "value"), fused.chunk(3, dim=-1), strict=True):
        weight, bias = (loaded[f"layers.1.attention.{name}.{part}"] for part in ("weight", "bias"))
        torch.testing.assert_close(torch.nn.functional.linear(x, weight, bias).view(5, 4, 4), expected)


def test_norms_of_files_converted_from_tensorflow_are_found(tmp_path):
    model = transformers.BertModel(config_of("bert", SIZES))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    saved(model, tmp_path)
    save_file({f"bert.{name}": tensor for name, tensor in old.items()}, tmp_path / "model.safetensors")
    found = read_spec(tmp_path)
    loaded = load_weights(found.weights, found.spec, found.naming)
    assert torch.equal(loaded["embedding.norm.weight"], model.embeddings.LayerNorm.weight)


def spec_of(model_type: str, **changes: object) -> ModelSpec:
    return translate({**config_of(model_type, {}).to_dict(), "model_type": model_type, **changes})[0]


def test_positions_of_roberta_start_after_the_padding_row():
    spec = spec_of("roberta", max_position_embeddings=514, pad_token_id=1)
    assert (spec.positions.offset, spec.positions.max_positions, spec.positions.rows) == (2, 512, 514)


def test_mpnet_has_a_learned_table_besides_its_relative_bias():
    spec = spec_of("mpnet", max_position_embeddings=514)
    assert (spec.positions.kind, spec.positions.rows, spec.positions.max_positions) == ("relative", 514, 512)
    assert (spec.positions.buckets, spec.positions.max_distance) == (32, 128)


def test_a_window_of_transformers_counts_the_own_token():
    assert spec_of("mistral", sliding_window=4).attention.left_window == 3
    assert spec_of("mistral", sliding_window=None).attention.left_window is None


def test_layers_slide_where_layer_types_says():
    kinds = ["full_attention", "sliding_attention"]
    spec = spec_of("qwen2", num_hidden_layers=2, layer_types=kinds, use_sliding_window=True, sliding_window=9)
    assert spec.windows == (None, 8)
    assert spec_of("qwen2").windows is None
    assert spec_of("gemma2", num_hidden_layers=3, layer_types=None, sliding_window=5).windows == (4, None, 4)


def test_qwen2_without_layer_types_slides_from_max_window_layers_on():
    layers = {"num_hidden_layers": 4, "layer_types": None, "max_window_layers": 2, "sliding_window": 8}
    assert spec_of("qwen2", **layers, use_sliding_window=True).windows == (None, None, 7, 7)
    assert spec_of("qwen2", **layers, use_sliding_window=False).windows is None


def test_gemma2_scales_caps_and_normalises_as_its_modeling_file_does():
    spec = spec_of("gemma2", query_pre_attn_scalar=144, attn_logit_softcapping=50.0, hidden_size=64)
    assert spec.attention.scale == pytest.approx(1 / 12)
    assert (spec.attention.softcap, spec.norm.placement, spec.norm.unit_offset) == (50.0, "sandwich", True)
    assert spec.embedding is not None
    assert spec.embedding.scale == 8.0


def test_rotary_base_is_read_in_the_new_and_the_old_spelling():
    old = {"rope_parameters": None, "rope_scaling": None, "rope_theta": 5e5}
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert spec_of("llama", **old).positions.theta == spec_of("llama", **new).positions.theta == 5e5
    assert (
        spec_of("llama", rope_parameters={"rope_theta": 10**10, "rope_type": "default"}).positions.theta
        == 1e10
    )
    neox = spec_of("gpt_neox", rope_parameters=None, rotary_pct=0.5, rotary_emb_base=100)
    assert (neox.positions.rotary_fraction, neox.positions.theta) == (0.5, 100.0)


def test_layers_that_slide_have_a_base_of_their_own():
    older = {
        "rope_parameters": None,
        "layer_types": None,
        "num_hidden_layers": 3,
        "sliding_window_pattern": 2,
    }
    stretched = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 50.0}
    spec = spec_of("gemma3_text", **older, **stretched, rope_theta=1e6, sliding_window=9)
    assert (spec.windows, spec.right_windows) == ((8, None, 8), None)
    assert [spec.rotary_of(layer).theta for layer in range(3)] == [50.0, 1e6, 50.0]
    assert [spec.rotary_of(layer).scaling for layer in (0, 2)] == [None, None]
    assert spec.positions.scaling == ScalingSpec(kind="linear", factor=8.0)
    both = spec_of("gemma3_text", **older, use_bidirectional_attention=True, sliding_window=9)
    assert (both.windows, both.right_windows) == ((4, None, 4),) * 2
    assert not both.attention.causal


def test_modernbert_slides_but_in_every_third_layer():
    older = {"rope_parameters": None, "layer_types": None, "num_hidden_layers": 4, "local_attention": 10}
    spec = spec_of("modernbert", **older, global_rope_theta=7.0, local_rope_theta=3.0)
    assert spec.windows == spec.right_windows == (None, 5, 5, None)
    assert [spec.rotary_of(layer).theta for layer in range(4)] == [7.0, 3.0, 3.0, 7.0]
    assert spec_of("modernbert", **older, global_rope_theta=3.0, local_rope_theta=3.0).rotary is None


def test_activations_are_translated():
    assert spec_of("bert", hidden_act="gelu_new").feed_forward.activation == "gelu_tanh"
    assert spec_of("llama", hidden_act="swish").feed_forward.activation == "silu"
    assert spec_of("gemma", hidden_act="gelu").feed_forward.activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("model_type", "changes", "named"),
    [
        ("mpnet", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"position_embedding_type": "rotary"}, "position_embedding_type"),
        (
            "bert",
            {"position_embedding_type": "alibi", "auto_map": {"AutoModel": "m.M"}},
            "position_embedding_type",
        ),
        ("bert", {"add_cross_attention": True}, "add_cross_attention"),
        ("bert", {"hidden_act": "mish"}, "hidden_act"),
        ("bert", {"hidden_act": ["gelu"]}, "hidden_act"),
        ("bert", {"hidden_size": "768"}, "d_model"),
        ("bert", {"hidden_size": 769}, "d_model 769"),
        ("bert", {"num_hidden_layers": 2**31 - 1}, "layers"),
        ("bert", {"is_decoder": "no"}, "causal"),
        ("bert", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("roberta", {"pad_token_id": None}, "pad_token_id"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "factor is None"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": True}}, "factor is True"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 1}}, "'beta_fast' is not"),
        ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}}, "type 'su'"),
        ("llama", {"rope_scaling": {"type": "yarn"}}, "factor is None"),
        (
            "llama",
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
            "short_factors has 1",
        ),
        ("llama", {"rope_scaling": LLAMA3 | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ("llama", {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_frequency_factor is 1.0"),
        ("llama", {"rope_scaling": LLAMA3, ORIGINAL: None}, f"{ORIGINAL} is None"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is None"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "layer to layer"),
        ("llama", {"rope_parameters": 7}, "rotary"),
        ("llama", {"num_attention_heads": 0, "head_dim": None}, "num_attention_heads"),
        ("llama", {"num_key_value_heads": 5}, "kv_heads"),
        ("albert", {"inner_group_num": 2}, "inner_group_num"),
        ("albert", {"num_hidden_groups": 0}, "num_hidden_groups is 0"),
        ("albert", {"gap_size": 2}, "gap_size"),
        ("mistral", {"sliding_window": 0}, "sliding_window"),
        ("qwen2", {"layer_types": ["linear_attention"] * 32}, "layer_types"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 32}, "sliding_window"),
        ("qwen2", {"layer_types": [{}]}, "layer_types"),
        ("phi3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "supported: default, longrope"),
        (
            "phi3",
            {"rope_scaling": {"type": "su", "factor": 2.0, "low": 1}},
            "'low' is not known in type long",
        ),
        ("phi3", {"full_attn_mod": 2}, "full_attn_mod"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention is 'all'"),
        ("gemma3_text", {"attn_logit_softcapping": 2.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        (
            "gemma3_text",
            {"rope_parameters": {"rope_type": "default"}},
            "it must have full_attention and slid",
        ),
        ("gemma3_text", {"rope_parameters": {"full_attention": 7}}, "of full_attention is 7"),
        ("gemma3_text", {"rope_parameters": None, "rope_scaling": 7}, "rope_scaling is 7"),
        ("gemma3_text", {"rope_parameters": {}, "rope_scaling": {}}, "no rope_scaling beside"),
        ("opt", {"word_embed_proj_dim": 512}, "word_embed_proj_dim"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
    ],
)
def test_what_a_specification_cannot_say_is_refused_by_name(model_type, changes, named):
    with pytest.raises(SpecError, match=named) as refusal:
        spec_of(model_type, **changes)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("model_type", ["t5", None, 7, ["bert"], "x" * 10_000])
def test_an_unknown_model_type_is_refused_with_the_known_ones(model_type):
    with pytest.raises(SpecError, match="supported: bert") as refusal:
        translate({"model_type": model_type})
    assert len(str(refusal.value)) < 500
