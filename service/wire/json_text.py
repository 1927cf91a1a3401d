"""Any reply as JSON text: orjson, and compiled code for the arrays in it where there is any."""

import threading
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.wire.dtypes import Buffer
from service.wire.native import Native, native

__all__ = ["dumps"]

_MARK = "\u241ftensor\u241f"

# What a text is written into is up to twice as large as the text: it is kept, and the text copied from it.
# That takes a tenth of the writing, and leaves no memory taken that nobody uses.
LARGEST_KEPT_BYTES = 4 << 20
_spare = threading.local()


def dumps(body: dict[str, Any]) -> Buffer:
    """Return a JSON object; its arrays are C-contiguous, numbers that are not finite become null.

    float32 is written with the fewest digits that read back equal.
    """
    compiled = native()
    if compiled is None:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return _Text(compiled).of(body)


class _Text:
    """One text: a frame without its large arrays, then the frame and the arrays in turns."""

    def __init__(self, compiled: Native) -> None:
        self._compiled = compiled
        self._arrays: list[np.ndarray[Any, Any]] = []

    def of(self, body: dict[str, Any]) -> Buffer:
        frame = orjson.dumps(body, default=self._instead)
        if not self._arrays:
            return frame
        pieces = frame.split(orjson.dumps(_MARK))
        if len(pieces) != len(self._arrays) + 1:  # a caller's own text, given back, has the mark in it
            return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        out = _space(len(frame) + sum(map(self._compiled.room, self._arrays)))
        at = 0
        for piece, array in zip(pieces, [*self._arrays, None], strict=True):
            out[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
            if array is not None:
                at += self._compiled.write(array, out[at:])
        if out.size > LARGEST_KEPT_BYTES:
            return out[:at].data
        _spare.out = out
        return out[:at].tobytes()

    def _instead(self, value: object) -> object:
        """Return what stands for a value that orjson does not write by itself; it asks in their order."""
        if isinstance(value, np.ndarray) and self._compiled.writes(value):
            self._arrays.append(value)
            return _MARK
        return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def _space(size: int) -> NDArray[np.uint8]:
    kept: NDArray[np.uint8] | None = _spare.__dict__.pop("out", None)
    return kept if kept is not None and kept.size >= size else np.empty(size, np.uint8)
