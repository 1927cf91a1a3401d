"""What sequences ask of the words that a layer's rows predict, collected."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from models.attention.sequence import InputSequence
from models.device.collect import TORCH_DTYPES
from models.device.steps import Steps
from models.outputs import made_of
from models.predictions.likeliest import Likely, likeliest
from models.predictions.table import Words

PREDICTED = made_of("words")
NEXT = ("next_ids", "next_logprobs")
NO_WORD = -1


class Predicting:
    """A head and a table of words; `of`: whether a row speaks of the next word, or of its own."""

    def __init__(self, head: Callable[[Tensor], Tensor], table: Words, *, of: Literal["next", "own"]) -> None:
        self.head, self.table, self.of = head, table, of

    def __call__(self, layer: int, x_ND: Tensor, sequences: Sequence[InputSequence]) -> Steps[None]:
        """Collect of every sequence that asks for predictions at a layer, of what its block gave."""
        asking = [one for one in sequences if any(one.asks(name, layer) for name in PREDICTED)]
        if not asking:
            return
        asking.sort(key=self._likeliest)  # a cut of the rows for each number of words
        rows = [one.chosen_rows(x_ND[one.rows]) for one in asking]
        ids = [self._ids(one, len(own)) for one, own in zip(asking, rows, strict=True)]
        most = max(one.shape[1] for one in ids)
        asked_NM = torch.cat(
            [torch.nn.functional.pad(one, (0, most - one.shape[1]), value=NO_WORD) for one in ids]
        )
        cuts: list[tuple[slice, int]] = []
        start = 0
        for one, own in zip(asking, rows, strict=True):
            k, first = self._likeliest(one), start
            if cuts and cuts[-1][1] == k:
                first = cuts.pop()[0].start
            start += len(own)
            cuts.append((slice(first, start), k))
        made = yield from likeliest(self.table, self.head(torch.cat(rows)), cuts, asked_NM.to(x_ND.device))
        start = 0
        for one, own, wanted in zip(asking, rows, ids, strict=True):
            self._put(layer, one, made, cuts, slice(start, start + len(own)), wanted.shape[1])
            start += len(own)

    def _likeliest(self, one: InputSequence) -> int:
        """Return how many of the likeliest words a sequence wants of each row."""
        wants = any(name in one.selection for name in NEXT)
        return min(one.selection.top_k, self.table.words) if wants else 0

    def _ids(self, one: InputSequence, rows: int) -> Tensor:
        """Return the words whose log-probabilities a sequence wants of each row, int64 [rows, M]."""
        if "logprobs" not in one.selection:
            return torch.empty(rows, 0, dtype=torch.int64)
        if (targets := one.selection.targets) is not None:
            return torch.tensor(targets).expand(rows, -1)
        given = None if one.given is None else one.given.ids
        words = torch.full((one.queries + 1,), NO_WORD)
        if given is not None:
            words[: one.queries] = torch.from_numpy(given.copy())
        return one.chosen_rows(words[1:] if self.of == "next" else words[:-1])[:, None]

    def _put(
        self,
        layer: int,
        one: InputSequence,
        made: Likely,
        cuts: list[tuple[slice, int]],
        rows: slice,
        asked: int,
    ) -> None:
        lse_N1, dtype = made.lse_N[rows, None], TORCH_DTYPES[one.selection.dtype]
        found: dict[str, Tensor] = {}
        if any(name in one.selection for name in NEXT):
            at = next(at for at, (of, _) in enumerate(cuts) if of.start <= rows.start < of.stop)
            own = slice(rows.start - cuts[at][0].start, rows.stop - cuts[at][0].start)
            found["next_ids"] = made.ids[at][own].int()
            found["next_logprobs"] = (made.scores[at][own].double() - lse_N1).to(dtype)
        if "logprobs" in one.selection:
            logprobs = (made.asked_NM[rows, :asked].double() - lse_N1).to(dtype)
            found["logprobs"] = logprobs if one.selection.targets is not None else logprobs[:, 0]
        one.collector.check(lse_N1)  # and what no word follows is NaN
        for name, tensor in found.items():
            if name in one.selection:
                one.collector.put(name, layer, tensor.contiguous(), sound=True)
