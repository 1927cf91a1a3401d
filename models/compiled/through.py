"""Several blocks as one call: noted one by one, then done one after another without the interpreter.

After each call of compiled code the interpreter finds its own code and data out of the core's caches, which
makes two calls a block a tenth of the time that short batches take.
"""

import ctypes

from torch import Tensor

from models.compiled.extents import GroupOutputs
from models.compiled.native import Native
from models.compiled.panels import Projections, row_stride
from models.compiled.structures import AttentionCall, BlockCall, FeedCall


class Through(Native):
    """`block` and `feed` of another, which are noted until `run`; all blocks have the same rows.

    What a block gives is overwritten by the next: rows that enter a block are kept until the one after it is
    done, everything else is not.
    """

    def __init__(self, ours: Native) -> None:
        vars(self).update(vars(ours))
        self._attentions: list[AttentionCall] = []
        self._feeds: list[FeedCall] = []
        self._feed = self._feeds.append  # type: ignore[assignment]
        self._kept: dict[str, Tensor] = {}  # memory that calls have in common, by what it is for
        self._held: list[object] = []  # what calls point into beside

    def y(self, like: Tensor) -> Tensor:
        """Return rows for the next block to fill, in turns two of them."""
        return self._rows(f"y {len(self._feeds) % 2}", like, *like.shape)

    def run(self) -> int:
        """Do what was noted, as long as z is finite; return how many blocks were done."""
        count = len(self._feeds)
        calls = (BlockCall * count)()
        for call, attention, feed in zip(calls, self._attentions, self._feeds, strict=True):
            call.attention, call.feed = ctypes.addressof(attention), ctypes.addressof(feed)
        return int(self._blocks(calls, count))

    def _do_attend(self, call: AttentionCall, outputs: GroupOutputs) -> bool:
        self._attentions.append(call)
        self._held.append(outputs)
        return True

    def _memory(self, like: Tensor, floats: int) -> Tensor:
        kept = self._kept.get("memory")
        return (
            kept if kept is not None and len(kept) >= floats else self._put("memory", like.new_empty(floats))
        )

    def _rows(self, what: str, like: Tensor, rows: int, width: int) -> Tensor:
        kept = self._kept.get(what)
        if kept is not None and kept.shape == (rows, width):
            return kept
        return self._put(what, super()._rows(what, like, rows, width))

    def _put(self, what: str, made: Tensor) -> Tensor:
        self._held.append(made)
        self._kept[what] = made
        return made


def reads_in_place(by: Projections) -> bool:
    """Whether a block reads its rows where they are: of others a copy would be made before they are."""
    return by.before is not None or row_stride(by.qkv.inner) == by.qkv.inner
