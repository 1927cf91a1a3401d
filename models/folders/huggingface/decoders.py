"""Tables of the families that look one way: GPT-2, Llama and theirs.

Defaults and meanings are those of transformers' configuration and modeling files.
"""

import math

from models.folders.huggingface import fields as read
from models.folders.huggingface import names
from models.folders.huggingface.encoders import BERT
from models.folders.huggingface.family import Family, Table
from models.folders.huggingface.fields import Activation, Key, whole
from models.folders.huggingface.layers import (
    FULL,
    SLIDING,
    RotaryByLayer,
    Windows,
    both_ways,
    reach_of_gemma3,
    reach_of_sliding_window,
)
from models.folders.huggingface.rotary import RotaryFields

_GPT2: Table = {
    "d_model": Key("n_embd"),
    "heads": Key("n_head"),
    "layers": Key("n_layer"),
    "attention.causal": read.causal,
    "attention.scale": lambda config: None if config.get("scale_attn_weights", True) else 1.0,
    "positions.kind": "learned",
    "positions.max_positions": Key("n_positions", default=1024),
    "norm.kind": "layer",
    "norm.placement": "pre",
    "norm.final": True,
    "norm.eps": Key("layer_norm_epsilon", default=1e-5),
    "residual": True,
    "feed_forward.d_ff": lambda config: (
        4 * whole(config, "n_embd") if config.get("n_inner") is None else config["n_inner"]
    ),
    "feed_forward.activation": Activation("activation_function", "gelu_new"),
    "embedding.vocabulary": Key("vocab_size"),
    "tied_output": Key("tie_word_embeddings", default=True),
}
_LLAMA: Table = {
    "d_model": Key("hidden_size"),
    "heads": Key("num_attention_heads"),
    "kv_heads": read.key_heads(None),
    "d_k": read.head_width(None),
    "layers": Key("num_hidden_layers"),
    "attention.causal": read.causal,
    "projection.bias": Key("attention_bias", default=False),
    "projection.output_bias": Key("attention_bias", default=False),
    **RotaryFields(positions=2048).table(),
    "norm.kind": "rms",
    "norm.placement": "pre",
    "norm.final": True,
    "norm.eps": Key("rms_norm_eps", default=1e-6),
    "residual": True,
    "feed_forward.kind": "gated",
    "feed_forward.d_ff": Key("intermediate_size"),
    "feed_forward.activation": Activation("hidden_act", "silu"),
    "feed_forward.bias": Key("mlp_bias", default=False),
    "embedding.vocabulary": Key("vocab_size"),
    "tied_output": Key("tie_word_embeddings", default=False),
}
_MISTRAL = _LLAMA | {
    "kv_heads": read.key_heads(8),
    "attention.left_window": read.left_window(4096),
    "attention.right_window": read.right_window(4096),
    "projection.bias": False,
    "projection.output_bias": False,
    **RotaryFields(positions=131072).table(),
    "feed_forward.bias": False,
}
_PHI3 = _LLAMA | {
    "attention.left_window": read.left_window(None),
    "attention.right_window": read.right_window(None),
    "projection.bias": False,
    "projection.output_bias": False,
    **RotaryFields(
        positions=4096,
        fraction=1.0,
        original=4096,
        kinds={"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"},
    ).table(),
    "norm.eps": Key("rms_norm_eps", default=1e-5),
    "feed_forward.bias": False,
}
_QWEN2 = _LLAMA | {
    "kv_heads": read.key_heads(32),
    "projection.bias": True,
    "projection.output_bias": False,
    **RotaryFields(positions=32768).table(),
    "feed_forward.bias": False,
    **Windows(
        slides=lambda config, layer: layer >= whole(config, "max_window_layers", 28),
        reach=reach_of_sliding_window(4096, switch="use_sliding_window"),
    ).table(),
}
_QWEN3 = _QWEN2 | {
    "d_k": read.head_width(128),
    "projection.bias": Key("attention_bias", default=False),
    "projection.output_bias": Key("attention_bias", default=False),
    "projection.qk_norm": "rms",
}
_GEMMA = _LLAMA | {
    "kv_heads": read.key_heads(16),
    "d_k": read.head_width(256),
    **RotaryFields(positions=8192).table(),
    "norm.unit_offset": True,
    "feed_forward.bias": False,
    "feed_forward.activation": read.gemma_activation,
    "embedding.scale": lambda config: math.sqrt(whole(config, "hidden_size")),
    "tied_output": Key("tie_word_embeddings", default=True),
}
_GEMMA2 = _GEMMA | {
    "kv_heads": read.key_heads(4),
    "attention.scale": lambda config: whole(config, "query_pre_attn_scalar", 256, least=1) ** -0.5,
    "attention.softcap": Key("attn_logit_softcapping", default=50.0),
    "prediction.softcap": Key("final_logit_softcapping", default=30.0),
    "norm.placement": "sandwich",
    "feed_forward.activation": Activation("hidden_activation", "gelu_pytorch_tanh"),
    **Windows(slides=lambda _, layer: layer % 2 == 0, reach=reach_of_sliding_window(4096)).table(),
}
_GEMMA3_WINDOWS = Windows(
    slides=lambda config, layer: (layer + 1) % whole(config, "sliding_window_pattern", 6, least=1) > 0,
    reach=reach_of_gemma3,
)
_GEMMA3 = _GEMMA2 | {
    "attention.causal": lambda config: read.causal(config) and not both_ways(config),
    "attention.softcap": None,
    "prediction.softcap": Key("final_logit_softcapping", default=None),
    "projection.qk_norm": "rms",
    **_GEMMA3_WINDOWS.table(),
    **RotaryByLayer(
        windows=_GEMMA3_WINDOWS,
        positions=131072,
        names={FULL: "rope_theta", SLIDING: "rope_local_base_freq"},
        thetas={FULL: 1_000_000.0, SLIDING: 10_000.0},
        scaled=frozenset({FULL}),
    ).table(),
}
_GPT_NEOX = BERT | {
    "attention.causal": read.causal,
    "projection.bias": Key("attention_bias", default=True),
    "projection.output_bias": Key("attention_bias", default=True),
    **RotaryFields(
        positions=2048, theta_name="rotary_emb_base", fraction=0.25, fraction_name="rotary_pct"
    ).table(),
    "norm.placement": "pre",
    "norm.final": True,
    "norm.eps": Key("layer_norm_eps", default=1e-5),
    "parallel": Key("use_parallel_residual", default=True),
    "embedding.types": 0,
    "embedding.norm": False,
    "tied_output": Key("tie_word_embeddings", default=False),
}
_OPT = BERT | {
    "attention.causal": read.causal,
    "projection.bias": Key("enable_bias", default=True),
    "projection.output_bias": Key("enable_bias", default=True),
    "positions.kind": "learned",
    "positions.offset": 2,
    "positions.skip_masked": True,
    "positions.max_positions": Key("max_position_embeddings", default=2048),
    "norm.placement": lambda config: "pre" if config.get("do_layer_norm_before", True) else "post",
    "norm.final": read.final_norm_of_opt,
    "norm.eps": 1e-5,
    "feed_forward.d_ff": Key("ffn_dim"),
    "feed_forward.activation": Activation("activation_function", "relu"),
    "feed_forward.bias": Key("enable_bias", default=True),
    "embedding.width": read.word_width_of_opt,
    "embedding.types": 0,
    "embedding.norm": False,
    "tied_output": Key("tie_word_embeddings", default=True),
}

_ONE_WAY = {"use_bidirectional_attention": (False, None)}
_GEMMA_1 = _ONE_WAY | {"hidden_activation": (None, "gelu_pytorch_tanh")}

DECODERS: dict[str, Family] = {
    "gpt2": Family(
        table=_GPT2,
        naming=names.GPT2,
        holds={"scale_attn_by_inverse_layer_idx": (False,)},
        # The order of two steps, whose result is the same in float32; and fields of the first release.
        idle=frozenset({"reorder_and_upcast_attn", "n_ctx", "n_special", "predict_special_tokens"}),
    ),
    # How matrices were laid out over devices in training.
    "llama": Family(table=_LLAMA, naming=names.LLAMA, idle=frozenset({"pretraining_tp"})),
    "mistral": Family(table=_MISTRAL, naming=names.LLAMA),
    "phi3": Family(
        table=_PHI3,
        naming=names.PHI3,
        # transformers does not read these; the code that came with the models does.
        holds={
            **dict.fromkeys(("attention_bias", "mlp_bias", "lm_head_bias"), (False,)),
            **dict.fromkeys(("full_attn_mod", "interpolate_factor"), (1,)),
        },
        idle=frozenset({"original_max_position_embeddings"}),  # read where positions are stretched
    ),
    "qwen2": Family(table=_QWEN2, naming=names.LLAMA, holds={"use_mrope": (False, None)}),
    "qwen3": Family(table=_QWEN3, naming=names.LLAMA),
    "gemma": Family(table=_GEMMA, naming=names.LLAMA, holds=_GEMMA_1),
    "gemma2": Family(
        table=_GEMMA2,
        naming=names.GEMMA2,
        holds=_ONE_WAY,
        idle=frozenset({"hidden_act", "sliding_window_size"}),
    ),
    "gemma3_text": Family(
        table=_GEMMA3,
        naming=names.GEMMA2,
        holds={"attn_logit_softcapping": (None,)},
        idle=frozenset({"hidden_act", "_sliding_window_pattern"}),
    ),
    "gpt_neox": Family(table=_GPT_NEOX, naming=names.GPT_NEOX, idle=frozenset({"is_decoder"})),
    "opt": Family(table=_OPT, naming=names.OPT, holds={"layer_norm_elementwise_affine": (True,)}),
}
