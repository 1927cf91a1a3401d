"""Any reply as JSON text: orjson, and compiled code for the arrays in it where there is any."""

from typing import Any

import numpy as np
import orjson

from service.wire.dtypes import Buffer
from service.wire.native import Native, native

__all__ = ["dumps"]

_MARK = "\u241ftensor\u241f"


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
        out = np.empty(len(frame) + sum(map(self._compiled.room, self._arrays)), np.uint8)
        at = 0
        for piece, array in zip(pieces, [*self._arrays, None], strict=True):
            out[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
            if array is not None:
                at += self._compiled.write(array, out[at:])
        return out[:at].data

    def _instead(self, value: object) -> object:
        """Return what stands for a value that orjson does not write by itself; it asks in their order."""
        if isinstance(value, np.ndarray) and self._compiled.writes(value):
            self._arrays.append(value)
            return _MARK
        return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
