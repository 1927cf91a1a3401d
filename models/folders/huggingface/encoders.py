"""Tables of the families that look both ways: BERT and its kin.

Defaults and meanings are those of transformers' configuration and modeling files.
"""

from models.folders.huggingface import fields as read
from models.folders.huggingface import names
from models.folders.huggingface.family import Family, Table
from models.folders.huggingface.fields import Activation, Key, whole
from models.folders.huggingface.layers import FULL, SLIDING, RotaryByLayer, Windows
from models.mechanism import BY_KEY

BERT: Table = {
    "d_model": Key("hidden_size"),
    "heads": Key("num_attention_heads"),
    "layers": Key("num_hidden_layers"),
    "attention.causal": read.causal_of_bert,
    "positions.kind": read.position_kind,
    "positions.max_positions": Key("max_position_embeddings", default=512),
    "norm.kind": "layer",
    "norm.placement": "post",
    "norm.eps": Key("layer_norm_eps", default=1e-12),
    "residual": True,
    "feed_forward.d_ff": Key("intermediate_size"),
    "feed_forward.activation": Activation("hidden_act", "gelu"),
    "embedding.vocabulary": Key("vocab_size"),
    "embedding.types": Key("type_vocab_size", default=2),
    "embedding.norm": True,
    "tied_output": Key("tie_word_embeddings", default=True),
}
_MASKED_HEAD: Table = {  # its activation is gelu, whatever the configuration says
    "prediction.activation": "gelu",
    "prediction.eps": Key("layer_norm_eps", default=1e-12),
    "prediction.bias": True,
}
_OWN_ACTIVATION = _MASKED_HEAD | {"prediction.activation": Activation("hidden_act", "gelu")}
_BERT = BERT | _OWN_ACTIVATION
_ROBERTA = (
    BERT
    | _MASKED_HEAD
    | {
        "positions.offset": read.first_position,
        "positions.padding": read.padding,
        "positions.max_positions": lambda config: read.positions_after(config, read.first_position(config)),
    }
)
_ELECTRA = BERT | _MASKED_HEAD | {"embedding.width": Key("embedding_size", default=128)}
_ALBERT = (
    BERT
    | _OWN_ACTIVATION
    | {
        "attention.causal": False,
        "positions.kind": "learned",
        "feed_forward.activation": Activation("hidden_act", "gelu_new"),
        "prediction.activation": Activation("hidden_act", "gelu_new"),
        "embedding.width": Key("embedding_size", default=128),
        "embedding.widened": True,
        "shared": read.groups_of_albert,
    }
)
_MPNET = (
    BERT
    | _MASKED_HEAD
    | {
        "attention.causal": False,
        "positions.kind": "relative",
        "positions.table": True,
        "positions.offset": 2,  # the padding token is 1 whatever the configuration says
        "positions.padding": 1,
        "positions.max_positions": lambda config: read.positions_after(config, 2),
        "positions.buckets": 32,
        "positions.max_distance": 128,
        "embedding.types": 0,
    }
)
_DISTILBERT = (
    BERT
    | _MASKED_HEAD
    | {
        "d_model": Key("dim"),
        "heads": Key("n_heads"),
        "layers": Key("n_layers"),
        "attention.causal": False,
        "positions.kind": "learned",
        "norm.eps": 1e-12,
        "feed_forward.d_ff": Key("hidden_dim"),
        "feed_forward.activation": Activation("activation", "gelu"),
        "prediction.activation": Activation("activation", "gelu"),
        "prediction.eps": 1e-12,
        "embedding.types": 0,
    }
)

_MODERNBERT_WINDOWS = Windows(
    slides=lambda config, layer: layer % whole(config, "global_attn_every_n_layers", 3, least=1) > 0,
    reach=lambda config: (whole(config, "local_attention", 128) // 2,) * 2,
)
_MODERNBERT: Table = {
    "d_model": Key("hidden_size"),
    "heads": Key("num_attention_heads"),
    "layers": Key("num_hidden_layers"),
    "projection.bias": Key("attention_bias", default=False),
    "projection.output_bias": Key("attention_bias", default=False),
    **_MODERNBERT_WINDOWS.table(),
    **RotaryByLayer(
        windows=_MODERNBERT_WINDOWS,
        positions=8192,
        names={FULL: "global_rope_theta", SLIDING: "local_rope_theta"},
        thetas={FULL: 160_000.0, SLIDING: 10_000.0},
        scaled=frozenset({FULL, SLIDING}),
    ).table(),
    "norm.kind": "layer",
    "norm.placement": "pre",
    "norm.eps": Key("norm_eps", default=1e-5),
    "norm.bias": Key("norm_bias", default=False),
    "norm.final": True,
    "norm.skip_first": True,
    "residual": True,
    "feed_forward.kind": "gated",
    "feed_forward.d_ff": Key("intermediate_size"),
    "feed_forward.activation": Activation("hidden_activation", "gelu"),
    "feed_forward.bias": Key("mlp_bias", default=False),
    "embedding.vocabulary": Key("vocab_size"),
    "embedding.norm": True,
    "tied_output": Key("tie_word_embeddings", default=True),
    "prediction.activation": Activation("classifier_activation", "gelu"),
    "prediction.dense_bias": Key("classifier_bias", default=False),
    "prediction.norm_bias": Key("norm_bias", default=False),
    "prediction.eps": Key("norm_eps", default=1e-5),
    "prediction.bias": Key("decoder_bias", default=True),
}

_BERT_POSITIONS = {"position_embedding_type": ("absolute", *BY_KEY, None)}

ENCODERS: dict[str, Family] = {
    "bert": Family(table=_BERT, naming=names.BERT, holds=_BERT_POSITIONS, idle=frozenset({"directionality"})),
    "roberta": Family(table=_ROBERTA, naming=names.BERT, holds=_BERT_POSITIONS),
    "xlm-roberta": Family(table=_ROBERTA, naming=names.BERT, holds=_BERT_POSITIONS),
    "camembert": Family(table=_ROBERTA, naming=names.BERT, holds=_BERT_POSITIONS),
    "electra": Family(table=_ELECTRA, naming=names.ELECTRA, holds=_BERT_POSITIONS),
    "distilbert": Family(
        table=_DISTILBERT, naming=names.DISTILBERT, idle=frozenset({"sinusoidal_pos_embds"})
    ),
    # Dropout, heads, kernels and initialisers under names of its own; norm_eps is what layer_norm_eps is not.
    "modernbert": Family(
        table=_MODERNBERT,
        naming=names.MODERNBERT,
        holds={"position_embedding_type": ("absolute", "sans_pos", None)},  # neither: mmBERT says so
        idle=frozenset(
            {
                *("classifier_pooling", "cls_token_id", "deterministic_flash_attn", "embedding_dropout"),
                *("is_causal", "mask_token_id"),
                *("initializer_cutoff_factor", "layer_norm_eps", "mlp_dropout", "reference_compile"),
                *("repad_logits_with_grad", "sparse_pred_ignore_index", "sparse_prediction"),
            }
        ),
    ),
    # Of these fields transformers reads the first alone: how many layers in a row are one of its groups.
    "albert": Family(
        table=_ALBERT,
        naming=names.ALBERT,
        holds={
            "inner_group_num": (1,),
            "down_scale_factor": (1,),
            **dict.fromkeys(("gap_size", "net_structure_type", "num_memory_blocks"), (0,)),
            "layers_to_keep": ([],),
        },
        idle=frozenset({"classifier_dropout_prob"}),
    ),
    # transformers reads 32 buckets whatever the table's size.
    "mpnet": Family(table=_MPNET, naming=names.MPNET, holds={"relative_attention_num_buckets": (32,)}),
}
