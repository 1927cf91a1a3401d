"""The structures that cross into C, as `native_calls.h` declares them, and numbers with names."""

from ctypes import Structure, c_float, c_int32, c_int64, c_void_p

from models.c_library import fields
from models.compiled.instructions import SETS

ACTIVATIONS = {
    name: number
    for number, name in enumerate(
        ("identity", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "relu", "relu2")
    )
}
MOST_TOP_K = 16  # of a row, that compiled code makes on the way to z
TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
KEPT_AS = TYPES | {"int8": 3}  # what the numbers of weights are
MOST_TILE_ROWS, ROOM_HEAD = 126, 1088  # rows of x that a thread keeps in narrower numbers; bytes before them
ROUGH_GELU = len(ACTIVATIONS)  # for what is rounded to bfloat16 next
NUMBERS = {"LAYER_NORM": 1, "ROOT_MEAN_SQUARE_NORM": 2, "MOST_TOP_K": MOST_TOP_K, "ROUGH_GELU": ROUGH_GELU}
NUMBERS |= {"MOST_TILE_ROWS": MOST_TILE_ROWS, "ROOM_HEAD": ROOM_HEAD}
MADE_FLOATS = 16  # before a row of what edits add
EDITS = {
    name: number for number, name in enumerate(("add", "block", "give", "one", "uniform", "set", "scale"))
}  # what an edit does
NUMBERS["MADE_FLOATS"] = MADE_FLOATS
NUMBERS |= {f"EDIT_{name.upper()}": number for name, number in EDITS.items()}
NUMBERS |= {name.upper(): number for name, number in (ACTIVATIONS | SETS | KEPT_AS).items()}


class Linear(Structure):
    """A linear layer, its weight in panels."""

    __slots__ = ()  # so that a name which is no field raises, here and below
    _fields_ = (
        *fields(c_void_p, "weight bias scales multipliers sums"),
        *fields(c_int64, "inner out numbers"),
    )


class Norm(Structure):
    """A norm; all zero: none."""

    __slots__ = ()
    _fields_ = (*fields(c_void_p, "weight bias"), ("eps", c_float), ("kind", c_int32))


class Outputs(Structure):
    """Where what is made of a sequence's weights on the way to z goes."""

    __slots__ = ()
    _fields_ = (
        *fields(c_void_p, "weights top_k_keys top_k_weights top_k_rest entropy received"),
        *fields(c_void_p, "weights_mean weights_max between_spans spans head_places row_places"),
        *fields(c_void_p, "mixed mix_weights share columns of over"),
        *fields(c_int64, "heads rows keys k span_count column_count of_count over_count"),
        *fields(c_int32, "type sums_rows"),
        ("times", c_float),
    )


class Sequence(Structure):
    """Which rows are a sequence's, what hides keys and biases scores, where logsumexp and outputs go."""

    __slots__ = ()
    _fields_ = (
        *fields(c_int64, "start z_start length key_start keys first last task parts"),
        *fields(c_void_p, "lse outputs laid mask bias seen cosines sines"),
        *fields(c_int64, "mask_head_stride mask_stride bias_head_stride bias_stride"),
        *fields(c_int64, "seen_head_stride seen_stride spoiled together"),
        *fields(c_void_p, "edits"),
        *fields(c_int64, "edit_count edits_first"),
    )


class EditRanges(Structure):
    """Sorted positions: of each range from, up to, and how many are before it."""

    __slots__ = ()
    _fields_ = (*fields(c_void_p, "of"), *fields(c_int64, "count"))


class RowEdit(Structure):
    """What is done to scores, weights or z of some heads and rows of a sequence."""

    __slots__ = ()
    _fields_ = (
        *fields(c_void_p, "head_places"),
        *fields(EditRanges, "rows keys"),
        *fields(c_void_p, "values"),
        *fields(c_int64, "head_stride row_stride ahead"),
        ("value", c_float),
        ("does", c_int32),
    )


class Rotation(Structure):
    """How q and k are turned by their positions; all zero: they are not."""

    __slots__ = ()
    _fields_ = (*fields(c_void_p, "cosines sines"), *fields(c_int64, "half interleaved"))


class Rule(Structure):
    """Which keys a row may attend by where they stand, and how scores are made."""

    __slots__ = ()
    _fields_ = (*fields(c_int64, "low high hole own"), *fields(c_float, "scale softcap"))


class AttentionCall(Structure):
    """A norm, W_QKV, norms and rotations of q and k, attention of each sequence, W_O."""

    __slots__ = ()
    _fields_ = (
        *fields(c_void_p, "x read projected q k v z_heads z scratch sinks rooms sequences"),
        *fields(Linear, "projection output"),
        *fields(Norm, "before query_norm key_norm"),
        ("rotation", Rotation),
        ("rule", Rule),
        *fields(c_int64, "sequence_count x_rows z_rows width value_width first_head heads key_heads"),
        *fields(c_int64, "x_stride read_stride projected_stride z_heads_stride q_stride k_stride v_stride"),
        *fields(c_int64, "q_head_stride k_head_stride v_head_stride scratch_floats edit_floats room_bytes"),
        *fields(c_int32, "lays_out instructions threads"),
    )


class FeedCall(Structure):
    """What a block does after its attention."""

    __slots__ = ()
    _fields_ = (
        *fields(c_void_p, "x z sum read hidden y mid fed_rows rooms"),
        *fields(Linear, "up gate down"),
        *fields(Norm, "attended before fed after"),
        *fields(c_int64, "rows width sum_stride hidden_stride room_bytes"),
        *fields(c_int32, "activation rounded parallel instructions threads"),
    )


class BlockCall(Structure):
    """A whole block."""

    __slots__ = ()
    _fields_ = fields(c_void_p, "attention feed")


STRUCTURES = {
    "linear": Linear,
    "norm": Norm,
    "outputs": Outputs,
    "sequence": Sequence,
    "ranges": EditRanges,
    "edit": RowEdit,
    "rotation": Rotation,
    "rule": Rule,
    "attention_call": AttentionCall,
    "feed_call": FeedCall,
    "block_call": BlockCall,
}
