"""What the Hugging Face families call their tensors: one naming a family, as transformers' modeling files do.

The sources are `state_dict` keys of each family's model with and without a head; older files' names too.
"""

from models.folders.naming import QKV, Naming, Rule, rules

HEADS = (r"cls\..*", r"lm_head\..*", r"classifier\..*", r"qa_outputs\..*", r"score\..*", r"pooler\..*")
BUFFERS = (r"(.*\.)?position_ids", r"(.*\.)?rotary_emb\.inv_freq", r"(.*\.)?masked_bias")
WEIGHTS = tuple(name.replace("*", "weight") for name in QKV)
BIASES = tuple(name.replace("*", "bias") for name in QKV)


def _head(table: str, **others: str) -> tuple[Rule, ...]:
    """Return the rules of what predicts words: the name of the table, and of what comes before it."""
    named = {f"{table}.weight": "head.weight"}
    for ours, sources in others.items():
        target = "head.bias" if ours == "bias" else f"head.{ours}.*"
        named |= dict.fromkeys(sources.split(), target)
    return rules(named)


def _attention(source: str, *names: str) -> dict[str, str]:
    """Return the renamings of four linears under `source`: those of query, key, value and output."""
    ours = ("query", "key", "value", "output")
    return {
        f"{source}.{name}.*": f"layers.{{n}}.attention.{our}.*" for name, our in zip(names, ours, strict=True)
    }


_BERT_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "embedding.tokens.weight",
    "embeddings.position_embeddings.weight": "embedding.positions.weight",
    "embeddings.token_type_embeddings.weight": "embedding.types.weight",
    "embeddings.LayerNorm.*": "embedding.norm.*",
}
_BERT_FEED_FORWARD = {
    "encoder.layer.{n}.intermediate.dense.*": "layers.{n}.feed_forward.up.*",
    "encoder.layer.{n}.output.dense.*": "layers.{n}.feed_forward.down.*",
    "encoder.layer.{n}.output.LayerNorm.*": "layers.{n}.feed_forward_norm.*",
}
_BERT = (
    _BERT_EMBEDDINGS
    | {
        **_attention("encoder.layer.{n}.attention", "self.query", "self.key", "self.value", "output.dense"),
        "encoder.layer.{n}.attention.self.distance_embedding.weight": "layers.{n}.attention.distances.weight",
        "encoder.layer.{n}.attention.output.LayerNorm.*": "layers.{n}.attention_norm.*",
    }
    | _BERT_FEED_FORWARD
)
_ROBERTA_HEAD = _head(
    "lm_head.decoder",
    dense="lm_head.dense.*",
    norm="lm_head.layer_norm.*",
    bias="lm_head.bias lm_head.decoder.bias",
)
_BERT_HEAD = _head(
    "cls.predictions.decoder",
    dense="cls.predictions.transform.dense.*",
    norm="cls.predictions.transform.LayerNorm.*",
    bias="cls.predictions.bias cls.predictions.decoder.bias",
)
BERT = Naming(
    rules=rules(_BERT),
    prefixes=("bert.", "roberta."),
    ignored=(*HEADS, *BUFFERS),
    head=_BERT_HEAD + _ROBERTA_HEAD,
)

ELECTRA = Naming(
    rules=rules(_BERT | {"embeddings_project.*": "embedding.widen.*"}),
    prefixes=("electra.",),
    ignored=(*HEADS, *BUFFERS, r"(discriminator|generator)_(predictions|lm_head)\..*"),
    head=_head(
        "generator_lm_head",
        dense="generator_predictions.dense.*",
        norm="generator_predictions.LayerNorm.*",
        bias="generator_lm_head.bias",
    ),
)

MODERNBERT = Naming(
    rules=(
        Rule("layers.{n}.attn.Wqkv.*", QKV),
        Rule("layers.{n}.mlp.Wi.*", ("layers.{n}.feed_forward.gate.*", "layers.{n}.feed_forward.up.*")),
        *rules(
            {
                "embeddings.tok_embeddings.weight": "embedding.tokens.weight",
                "embeddings.norm.*": "embedding.norm.*",
                "layers.{n}.attn.Wo.*": "layers.{n}.attention.output.*",
                "layers.{n}.attn_norm.*": "layers.{n}.attention_norm.*",
                "layers.{n}.mlp.Wo.*": "layers.{n}.feed_forward.down.*",
                "layers.{n}.mlp_norm.*": "layers.{n}.feed_forward_norm.*",
                "final_norm.*": "final_norm.*",
            }
        ),
    ),
    prefixes=("model.",),
    ignored=(*HEADS, *BUFFERS, r"head\..*", r"decoder\..*"),
    head=_head("decoder", dense="head.dense.*", norm="head.norm.*", bias="decoder.bias"),
)

_ALBERT_LAYER = "encoder.albert_layer_groups.{n}.albert_layers.0"
ALBERT = Naming(
    rules=rules(
        _BERT_EMBEDDINGS
        | {
            "encoder.embedding_hidden_mapping_in.*": "embedding.widen.*",
            **_attention(f"{_ALBERT_LAYER}.attention", "query", "key", "value", "dense"),
            f"{_ALBERT_LAYER}.attention.LayerNorm.*": "layers.{n}.attention_norm.*",
            f"{_ALBERT_LAYER}.ffn.*": "layers.{n}.feed_forward.up.*",
            f"{_ALBERT_LAYER}.ffn_output.*": "layers.{n}.feed_forward.down.*",
            f"{_ALBERT_LAYER}.full_layer_layer_norm.*": "layers.{n}.feed_forward_norm.*",
        }
    ),
    prefixes=("albert.",),
    ignored=(*HEADS, *BUFFERS, r"(predictions|sop_classifier)\..*"),
    head=_head(
        "predictions.decoder",
        dense="predictions.dense.*",
        norm="predictions.LayerNorm.*",
        bias="predictions.bias predictions.decoder.bias",
    ),
)

MPNET = Naming(
    rules=rules(
        _BERT_EMBEDDINGS
        | {
            **_attention("encoder.layer.{n}.attention.attn", "q", "k", "v", "o"),
            "encoder.layer.{n}.attention.LayerNorm.*": "layers.{n}.attention_norm.*",
            "encoder.relative_attention_bias.weight": "positions.bias.weight",
        }
        | _BERT_FEED_FORWARD
    ),
    prefixes=("mpnet.",),
    ignored=(*HEADS, *BUFFERS),
    head=_ROBERTA_HEAD,
)

DISTILBERT = Naming(
    rules=rules(
        _BERT_EMBEDDINGS
        | {
            **_attention("transformer.layer.{n}.attention", "q_lin", "k_lin", "v_lin", "out_lin"),
            "transformer.layer.{n}.sa_layer_norm.*": "layers.{n}.attention_norm.*",
            "transformer.layer.{n}.ffn.lin1.*": "layers.{n}.feed_forward.up.*",
            "transformer.layer.{n}.ffn.lin2.*": "layers.{n}.feed_forward.down.*",
            "transformer.layer.{n}.output_layer_norm.*": "layers.{n}.feed_forward_norm.*",
        }
    ),
    prefixes=("distilbert.",),
    ignored=(*HEADS, *BUFFERS, r"vocab_(transform|layer_norm|projector)\..*", r"pre_classifier\..*"),
    head=_head(
        "vocab_projector",
        dense="vocab_transform.*",
        norm="vocab_layer_norm.*",
        bias="vocab_projector.bias",
    ),
)

GPT2 = Naming(
    rules=(
        Rule("h.{n}.attn.c_attn.weight", WEIGHTS, transpose=True),
        Rule("h.{n}.attn.c_attn.bias", BIASES),
        Rule("h.{n}.attn.c_proj.weight", ("layers.{n}.attention.output.weight",), transpose=True),
        Rule("h.{n}.mlp.c_fc.weight", ("layers.{n}.feed_forward.up.weight",), transpose=True),
        Rule("h.{n}.mlp.c_proj.weight", ("layers.{n}.feed_forward.down.weight",), transpose=True),
        *rules(
            {
                "wte.weight": "embedding.tokens.weight",
                "wpe.weight": "embedding.positions.weight",
                "h.{n}.ln_1.*": "layers.{n}.attention_norm.*",
                "h.{n}.attn.c_proj.bias": "layers.{n}.attention.output.bias",
                "h.{n}.ln_2.*": "layers.{n}.feed_forward_norm.*",
                "h.{n}.mlp.c_fc.bias": "layers.{n}.feed_forward.up.bias",
                "h.{n}.mlp.c_proj.bias": "layers.{n}.feed_forward.down.bias",
                "ln_f.*": "final_norm.*",
            }
        ),
    ),
    prefixes=("transformer.",),
    ignored=(*HEADS, *BUFFERS, r"h\.\d+\.attn\.bias", r"multiple_choice_head\..*"),
    head=_head("lm_head"),
)

_LLAMA = {
    "embed_tokens.weight": "embedding.tokens.weight",
    **_attention("layers.{n}.self_attn", "q_proj", "k_proj", "v_proj", "o_proj"),
    "layers.{n}.self_attn.q_norm.weight": "layers.{n}.attention.query_norm.weight",
    "layers.{n}.self_attn.k_norm.weight": "layers.{n}.attention.key_norm.weight",
    "layers.{n}.mlp.up_proj.*": "layers.{n}.feed_forward.up.*",
    "layers.{n}.mlp.gate_proj.*": "layers.{n}.feed_forward.gate.*",
    "layers.{n}.mlp.down_proj.*": "layers.{n}.feed_forward.down.*",
    "layers.{n}.input_layernorm.weight": "layers.{n}.attention_norm.weight",
    "norm.weight": "final_norm.weight",
}
LLAMA = Naming(
    rules=rules(
        _LLAMA | {"layers.{n}.post_attention_layernorm.weight": "layers.{n}.feed_forward_norm.weight"}
    ),
    prefixes=("model.",),
    ignored=(*HEADS, *BUFFERS),
    head=_head("lm_head"),
)
PHI3 = Naming(
    rules=(
        Rule("layers.{n}.self_attn.qkv_proj.*", QKV),
        Rule(
            "layers.{n}.mlp.gate_up_proj.*",
            ("layers.{n}.feed_forward.gate.*", "layers.{n}.feed_forward.up.*"),
        ),
        *LLAMA.rules,
    ),
    prefixes=("model.",),
    ignored=(*HEADS, *BUFFERS),
    head=_head("lm_head"),
)
GEMMA2 = Naming(
    rules=rules(
        _LLAMA
        | {
            "layers.{n}.post_attention_layernorm.weight": "layers.{n}.attention_norm_after.weight",
            "layers.{n}.pre_feedforward_layernorm.weight": "layers.{n}.feed_forward_norm.weight",
            "layers.{n}.post_feedforward_layernorm.weight": "layers.{n}.feed_forward_norm_after.weight",
        }
    ),
    prefixes=("model.",),
    ignored=(*HEADS, *BUFFERS),
    head=_head("lm_head"),
)

GPT_NEOX = Naming(
    rules=(
        Rule("layers.{n}.attention.query_key_value.*", QKV, split="per_head"),
        *rules(
            {
                "embed_in.weight": "embedding.tokens.weight",
                "layers.{n}.attention.dense.*": "layers.{n}.attention.output.*",
                "layers.{n}.mlp.dense_h_to_4h.*": "layers.{n}.feed_forward.up.*",
                "layers.{n}.mlp.dense_4h_to_h.*": "layers.{n}.feed_forward.down.*",
                "layers.{n}.input_layernorm.*": "layers.{n}.attention_norm.*",
                "layers.{n}.post_attention_layernorm.*": "layers.{n}.feed_forward_norm.*",
                "final_layer_norm.*": "final_norm.*",
            }
        ),
    ),
    prefixes=("gpt_neox.",),
    ignored=(*HEADS, *BUFFERS, r"layers\.\d+\.attention\.bias", r"embed_out\..*"),
    head=_head("embed_out") + _head("lm_head"),  # by the release that wrote it
)

OPT = Naming(
    rules=rules(
        {
            "embed_tokens.weight": "embedding.tokens.weight",
            "embed_positions.weight": "embedding.positions.weight",
            **_attention("layers.{n}.self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
            "layers.{n}.self_attn_layer_norm.*": "layers.{n}.attention_norm.*",
            "layers.{n}.fc1.*": "layers.{n}.feed_forward.up.*",
            "layers.{n}.fc2.*": "layers.{n}.feed_forward.down.*",
            "layers.{n}.final_layer_norm.*": "layers.{n}.feed_forward_norm.*",
            "final_layer_norm.*": "final_norm.*",
        }
    ),
    prefixes=("model.decoder.", "decoder."),
    ignored=(*HEADS, *BUFFERS),
    head=_head("lm_head"),
)
