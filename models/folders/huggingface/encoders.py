"""Tables of the families that look both ways: BERT and its kin.

Defaults and meanings are those of transformers' configuration and modeling files.
"""

from models.folders.huggingface import fields as read
from models.folders.huggingface import names
from models.folders.huggingface.family import Family, Table
from models.folders.huggingface.fields import Activation, Key
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
}
_ROBERTA = BERT | {
    "positions.offset": read.first_position,
    "positions.padding": read.padding,
    "positions.max_positions": lambda config: read.positions_after(config, read.first_position(config)),
}
_ELECTRA = BERT | {"embedding.width": Key("embedding_size", default=128)}
_MPNET = BERT | {
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
_DISTILBERT = BERT | {
    "d_model": Key("dim"),
    "heads": Key("n_heads"),
    "layers": Key("n_layers"),
    "attention.causal": False,
    "positions.kind": "learned",
    "norm.eps": 1e-12,
    "feed_forward.d_ff": Key("hidden_dim"),
    "feed_forward.activation": Activation("activation", "gelu"),
    "embedding.types": 0,
}

_BERT_POSITIONS = {"position_embedding_type": ("absolute", *BY_KEY, None)}

ENCODERS: dict[str, Family] = {
    "bert": Family(table=BERT, naming=names.BERT, holds=_BERT_POSITIONS, idle=frozenset({"directionality"})),
    "roberta": Family(table=_ROBERTA, naming=names.BERT, holds=_BERT_POSITIONS),
    "xlm-roberta": Family(table=_ROBERTA, naming=names.BERT, holds=_BERT_POSITIONS),
    "camembert": Family(table=_ROBERTA, naming=names.BERT, holds=_BERT_POSITIONS),
    "electra": Family(table=_ELECTRA, naming=names.ELECTRA, holds=_BERT_POSITIONS),
    "distilbert": Family(
        table=_DISTILBERT, naming=names.DISTILBERT, idle=frozenset({"sinusoidal_pos_embds"})
    ),
    # transformers reads 32 buckets whatever the table's size.
    "mpnet": Family(table=_MPNET, naming=names.MPNET, holds={"relative_attention_num_buckets": (32,)}),
}
