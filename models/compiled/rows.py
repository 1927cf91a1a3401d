"""Memory for rows of a call: as products read them best, and where threads keep them in narrower numbers."""

import torch
from torch import Tensor

from models.compiled.structures import MOST_TILE_ROWS, ROOM_HEAD, AttentionCall, FeedCall

PAGE, CACHE_LINE, FEW_ROWS = 1024, 16, 8  # numbers: 4 KiB, 64 bytes


def room_for_rows(call: AttentionCall | FeedCall, like: Tensor, rows: int, row_bytes: int) -> Tensor | None:
    """Return memory for up to so many rows for each thread of a call, and tell the call of it.

    `row_bytes`: of a row in narrower numbers, 0 where none is read so. Hold what is returned until then.
    """
    if not row_bytes:
        return None
    call.room_bytes = ROOM_HEAD + min(rows, MOST_TILE_ROWS) * row_bytes
    room = like.new_empty(call.threads * call.room_bytes, dtype=torch.uint8)
    call.rooms = room.data_ptr()
    return room


def padded_rows(like: Tensor, rows: int, width: int) -> Tensor:
    """Return rows that a product may read, [rows, width], not written yet; their memory is longer than they.

    A product reads fourteen rows side by side. A multiple of 4 KiB apart, all of them would have to stand in
    the same few lines of the core's nearest cache.
    """
    if width % PAGE:
        return like.new_empty(rows, width)
    return like.new_empty(rows, width + CACHE_LINE)[:, :width]


def padded(x_ND: Tensor) -> Tensor:
    """Return rows as far from each other as `padded_rows` would have them."""
    if x_ND.shape[1] % PAGE or x_ND.shape[0] < FEW_ROWS:
        return x_ND
    return padded_rows(x_ND, *x_ND.shape).copy_(x_ND)
