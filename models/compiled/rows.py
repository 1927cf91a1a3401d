"""Memory for the rows of a call: as products read them best, and for threads to keep them narrower."""

from torch import Tensor

from models.compiled.panels import row_stride
from models.compiled.rules import FLOAT_BYTES
from models.compiled.structures import MOST_TILE_ROWS, ROOM_HEAD, AttentionCall, FeedCall

FEW_ROWS = 8


def room_floats(call: AttentionCall | FeedCall, rows: int, row_bytes: int) -> int:
    """Tell a call how large its threads' rooms for rows in narrower numbers are; return the floats of all."""
    call.room_bytes = ROOM_HEAD + min(rows, MOST_TILE_ROWS) * row_bytes if row_bytes else 0
    return int(call.threads * call.room_bytes) // FLOAT_BYTES


def padded_rows(like: Tensor, rows: int, width: int) -> Tensor:
    """Return rows that a product may read, [rows, width], not written yet."""
    stride = row_stride(width)
    return like.new_empty(rows, stride)[:, :width] if stride > width else like.new_empty(rows, width)


def padded(x_ND: Tensor) -> Tensor:
    """Return rows as far from each other as `padded_rows` would have them."""
    if row_stride(x_ND.shape[1]) == x_ND.shape[1] or x_ND.shape[0] < FEW_ROWS:
        return x_ND
    return padded_rows(x_ND, *x_ND.shape).copy_(x_ND)


class CallMemory:
    """Memory of each call's own."""

    def _memory(self, like: Tensor, floats: int) -> Tensor:
        """Return what nobody reads after a call, not written yet."""
        return like.new_empty(floats)

    def _rows(self, what: str, like: Tensor, rows: int, width: int) -> Tensor:
        """Return rows that a call fills, [rows, width]: z, for a product to read, or q beside k beside v."""
        return padded_rows(like, rows, width) if what == "projected" else like.new_empty(rows, width)
