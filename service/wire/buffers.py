"""Pieces of a reply: large ones go out as the views they are, small neighbours are put together."""

from collections.abc import Iterable

from service.wire.dtypes import Buffer

PIECE_BYTES = 64 * 1024  # about what a socket takes at once; below it, a message costs more than a copy


def gather(buffers: Iterable[Buffer]) -> list[Buffer]:
    """Return the same bytes in fewer pieces; no piece of 64 KiB or more is copied, the others once."""
    gathered: list[Buffer] = []
    small: list[Buffer] = []
    size = 0
    for buffer in buffers:
        if size and size + len(buffer) > PIECE_BYTES:
            gathered.append(b"".join(small) if len(small) > 1 else small[0])
            small, size = [], 0
        if len(buffer) >= PIECE_BYTES:
            gathered.append(buffer)
        elif len(buffer):
            small.append(buffer)
            size += len(buffer)
    if small:
        gathered.append(b"".join(small) if len(small) > 1 else small[0])
    return gathered
