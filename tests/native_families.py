"""Every native family in a few shapes: its model_type, and what is changed from transformers' defaults."""

from typing import Any

WORDS = 50  # of a vocabulary; ids below FIRST_WORD are special: some families place padding tokens elsewhere
FIRST_WORD = 3

SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": WORDS}
SIZES = SPECIAL | {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
MODERN = SIZES | {"local_attention": 8, "num_hidden_layers": 5}
BY_LAYER = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
DISTILBERT = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
GROUPED = SIZES | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 16}
GEMMA2 = WIDE | {"sliding_window": 6, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0}
GEMMA3 = WIDE | {"sliding_window": 6, "query_pre_attn_scalar": 24, "sliding_window_pattern": 3}
PARTLY_ROTARY = {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 1e4}}
SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
LINEAR = {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}}
LLAMA3 = {
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "original_max_position_embeddings": 24,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
}
YARN = {
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 500.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
    }
}
PARTLY_YARN = {"rope_parameters": YARN["rope_parameters"] | {"partial_rotary_factor": 0.5}}
LONGROPE = {  # switches at 20 positions
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "original_max_position_embeddings": 20,
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 4.0, 5.5, 8.0],
    }
}
PARTLY_LONGROPE = {
    "rope_parameters": LONGROPE["rope_parameters"]
    | {"partial_rotary_factor": 0.75, "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 4.0, 5.5]}
}
OPT = {name: size for name, size in SIZES.items() if name != "intermediate_size"} | {"ffn_dim": 48}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", SIZES),
    "bert, causal": ("bert", SIZES | {"is_decoder": True}),
    "roberta": ("roberta", SIZES),
    "xlm-roberta": ("xlm-roberta", SIZES),
    "camembert": ("camembert", SIZES),
    "albert": ("albert", SIZES | {"embedding_size": 16}),
    "albert, two groups, as wide": ("albert", SIZES | {"embedding_size": 32, "num_hidden_groups": 2}),
    "electra": ("electra", SIZES | {"embedding_size": 16}),
    "electra, as wide": ("electra", SIZES | {"embedding_size": 32}),
    "distilbert": ("distilbert", SPECIAL | DISTILBERT),
    "modernbert": ("modernbert", MODERN),
    "modernbert, biases": (
        "modernbert",
        MODERN | {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "rope_parameters": BY_LAYER},
    ),
    "mpnet": ("mpnet", SIZES),
    "gpt2": ("gpt2", SPECIAL | GPT2),
    "gpt2, unscaled": ("gpt2", SPECIAL | GPT2 | {"scale_attn_weights": False}),
    "llama": ("llama", GROUPED),
    "llama, biases": ("llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": ("llama", GROUPED | LINEAR),
    "llama, llama3": ("llama", GROUPED | LLAMA3),
    "llama, longrope": ("llama", GROUPED | LONGROPE),
    "mistral": ("mistral", GROUPED | {"sliding_window": 5}),
    "phi3": ("phi3", GROUPED | {"sliding_window": 9}),
    "phi3, longrope": ("phi3", GROUPED | {"original_max_position_embeddings": 20} | PARTLY_LONGROPE),
    "qwen2": ("qwen2", GROUPED),
    "qwen2, sliding": ("qwen2", GROUPED | SLIDING),
    "qwen2, yarn": ("qwen2", GROUPED | YARN),
    "qwen3": ("qwen3", WIDE),
    "gemma": ("gemma", WIDE),
    "gemma2": ("gemma2", GEMMA2),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3, both ways": (
        "gemma3_text",
        GEMMA3 | {"use_bidirectional_attention": True, "attention_bias": True, "rope_parameters": BY_LAYER},
    ),
    "gpt_neox": ("gpt_neox", SIZES | PARTLY_ROTARY),
    "gpt_neox, one after the other": ("gpt_neox", SIZES | PARTLY_ROTARY | {"use_parallel_residual": False}),
    "gpt_neox, yarn": ("gpt_neox", SIZES | PARTLY_YARN),
    "opt": ("opt", OPT),
    "opt, norms after": ("opt", OPT | {"do_layer_norm_before": False}),
}
