"""Which keys a query may attend, and what is added to their scores, one block of rows at a time.

Four things decide: where query and key stand (a Band), the caller's mask, a bias the model makes (ALiBi,
relative positions), and edits of scores. None of them is ever held as a whole [T, S] unless the caller
brought it so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from models.compiled.rules import DistanceTable
from models.device.staging import tensor_of
from models.edits.scores import ScoreEdits
from models.errors import SpecError
from models.mechanism import AttentionSpec

# (rows, chosen heads or None for all) → float32 [H', R, S], added to the scores
Bias = Callable[[slice, list[int] | None], Tensor] | Tensor | DistanceTable


@dataclass(frozen=True, slots=True)
class Band:
    """Query i may attend key j where low ≤ j − i ≤ high and j − i ≠ hole; None: no such bound."""

    low: int | None = None
    high: int | None = None
    hole: int | None = None

    def keys(self, rows: Sequence[int], total: int) -> slice:
        """Return the keys that at least one of `rows` can see, perhaps none; `total` is S."""
        first = 0 if self.low is None else min(max(0, min(rows) + self.low), total)
        last = total if self.high is None else min(total, max(rows) + self.high + 1)
        return slice(first, max(first, last))

    def blocked(self, rows: Sequence[int], keys: slice, device: torch.device) -> Tensor:
        """Return bool [R, W], true where a key of `keys` is outside the band of a row."""
        at_K = torch.arange(keys.start, keys.stop, device=device)
        ahead_RK = at_K - positions(rows, device)[:, None]
        blocked = []
        if self.low is not None:
            blocked.append(ahead_RK < self.low)
        if self.high is not None:
            blocked.append(ahead_RK > self.high)
        if self.hole is not None:
            blocked.append(ahead_RK == self.hole)
        return reduce(Tensor.logical_or_, blocked)

    @property
    def width(self) -> int | None:
        """How many keys one query sees at most; None where a side is open."""
        return None if self.low is None or self.high is None else max(1, self.high - self.low + 1)


def band_of(spec: AttentionSpec, *, queries: int, keys: int) -> Band | None:
    """Return the band of a specification for T queries and S keys, or None where it hides nothing.

    Bounds that no pair of positions reaches are dropped, so that a window wider than the sequence, or
    a causal rule whose offset lets the first query see the last key, costs nothing.
    """
    if not spec.positional:
        return None
    at = spec.causal_offset
    low = None if spec.left_window is None else at - spec.left_window
    high = None if spec.right_window is None else at + spec.right_window
    if spec.causal:
        high = at if high is None else min(high, at)
    if low is not None and low <= 1 - queries:
        low = None
    if high is not None and high >= keys - 1:
        high = None
    hole = at if spec.exclude_self and 1 - queries <= at <= keys - 1 else None
    return None if low is None and high is None and hole is None else Band(low, high, hole)


def mask_of(mask: Tensor, *, heads: int, queries: int, keys: int) -> Tensor:
    """Return a mask of rank 1 [S], 2 [T, S], 3 [H, T, S] or 4 [1, H, T, S] as a view [H or 1, T or 1, S].

    Bool: true may attend. Float: added to the scores. Raises SpecError where it does not fit.
    """
    if mask.dim() == 4 and mask.shape[0] == 1:
        mask = mask[0]
    if not 1 <= mask.dim() <= 3:
        raise SpecError(f"a mask has 1 to 3 axes, [S], [T, S] or [H, T, S]; this one has {mask.dim()}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise SpecError("a mask is bool (true may be attended) or float (added to the scores)")
    mask_HTS = mask[(None,) * (3 - mask.dim())]
    h, t, s = mask_HTS.shape
    if h not in (1, heads) or t not in (1, queries) or s != keys:
        raise SpecError(
            f"the mask {list(mask.shape)} does not fit {heads} heads, {queries} queries and {keys} keys"
        )
    return mask_HTS


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """One block of masks: `added` float32 and `blocked` bool, each [H' or 1, R or 1, W] or None.

    Blocked keys are selected away, never added away: −inf + NaN is NaN. Where `added` is −inf, `blocked`
    is true.
    """

    added: Tensor | None
    blocked: Tensor | None

    def apply(self, scores_HRK: Tensor) -> Tensor:
        """Add and block in place."""
        if self.added is not None:
            scores_HRK.add_(self.added)
        if self.blocked is not None:
            scores_HRK.masked_fill_(self.blocked, -math.inf)
        return scores_HRK

    def seen(self, *, heads: int, rows: int) -> Tensor | None:
        """Return it as a bool mask [heads or 1, rows, W] of what may be attended; None where it adds, too."""
        if self.added is not None or self.blocked is None:
            return None
        return (~self.blocked).expand(heads if self.blocked.shape[0] > 1 else 1, rows, -1)

    def additive(self, *, heads: int, rows: int) -> Tensor:
        """Return it as one float32 mask [heads or 1, rows, W], −inf where blocked."""
        if self.added is not None:
            added = self.added if self.blocked is None else self.added.masked_fill(self.blocked, -math.inf)
        else:
            assert self.blocked is not None
            added = torch.zeros(self.blocked.shape, device=self.blocked.device)
            added.masked_fill_(self.blocked, -math.inf)
        return added.expand(heads if added.shape[0] > 1 else 1, rows, -1)

    def empty(self) -> Tensor | None:
        """Return bool [H' or 1, R or 1], true for rows that may attend nothing; None where none can be."""
        return None if self.blocked is None else self.blocked.all(-1)


@dataclass(frozen=True, slots=True, eq=False)
class Visibility:
    """All that hides keys or biases scores in one problem of `heads` query heads.

    `mask`, and `bias` where it is a tensor, are [H or 1, T or 1, S].
    """

    heads: int
    band: Band | None = None
    mask: Tensor | None = None
    bias: Bias | None = None
    edits: ScoreEdits | None = None

    @property
    def open(self) -> bool:
        """Whether every query attends every key, unbiased."""
        return self.band is None and self.mask is None and self.bias is None and self.edits is None

    @property
    def per_head(self) -> bool:
        """Whether heads may differ in what they see."""
        biased = self.bias is not None or self.edits is not None
        return biased or (self.mask is not None and self.mask.shape[0] > 1)

    def sight(
        self, heads: Sequence[int], rows: Sequence[int], keys: slice, *, device: torch.device
    ) -> Sight | None:
        """Return the masks of one block: query heads and positions by number, keys `keys`."""
        if self.open:
            return None
        blocked = self.band.blocked(rows, keys, device)[None] if self.band is not None else None
        added = None
        if self.bias is not None:
            added = self._biases(heads, rows, keys)
        if self.mask is not None:
            mask = _selected(self.mask, heads, rows)[..., keys]
            if mask.dtype == torch.bool:
                blocked = ~mask if blocked is None else blocked | ~mask
            else:
                added = mask.float() if added is None else added + mask.float()
        if self.edits is not None:
            more, hidden = self.edits.block(heads, rows, keys, device)
            if more is not None:
                added = more if added is None else added + more
            if hidden is not None:
                blocked = hidden if blocked is None else blocked | hidden
        if added is not None:
            hidden = added == -math.inf
            blocked = hidden if blocked is None else blocked | hidden
        return Sight(added, blocked)

    def _biases(self, heads: Sequence[int], rows: Sequence[int], keys: slice) -> Tensor:
        if isinstance(self.bias, Tensor):
            return _selected(self.bias, heads, rows)[..., keys].float()
        if isinstance(self.bias, DistanceTable):
            device = self.bias.table_HP.device
            at_K = torch.arange(keys.start, keys.stop, device=device) + self.bias.zero
            at_RK = at_K - positions(rows, device)[:, None]
            return select(self.bias.table_HP, 0, heads)[:, at_RK]
        assert self.bias is not None
        chosen = None if heads == range(self.heads) else list(heads)
        biases = [self.bias(run, chosen)[..., keys] for run in runs(rows)]
        return biases[0] if len(biases) == 1 else torch.cat(biases, dim=1)


def select(tensor: Tensor, dim: int, chosen: Sequence[int]) -> Tensor:
    """Return the chosen places along `dim`, in their order: a view for a range, else a copy."""
    if isinstance(chosen, range):
        return tensor if len(chosen) == tensor.shape[dim] else tensor.narrow(dim, chosen.start, len(chosen))
    return tensor.index_select(dim, positions(chosen, tensor.device))


def positions(chosen: Sequence[int], device: torch.device) -> Tensor:
    """Return numbers as int64 [n]."""
    if isinstance(chosen, range):
        return torch.arange(chosen.start, chosen.stop, device=device)
    return tensor_of(chosen, device, torch.int64)


def runs(rows: Sequence[int]) -> list[slice]:
    """Return the maximal runs of consecutive numbers, in order."""
    if isinstance(rows, range):
        return [slice(rows.start, rows.stop)]
    found: list[slice] = []
    for row in rows:
        if found and found[-1].stop == row:
            found[-1] = slice(found[-1].start, row + 1)
        else:
            found.append(slice(row, row + 1))
    return found


def _selected(mask_HTS: Tensor, heads: Sequence[int], rows: Sequence[int]) -> Tensor:
    """Return a mask's chosen heads and rows; an axis of 1 stands for all of them."""
    if mask_HTS.shape[0] > 1:
        mask_HTS = select(mask_HTS, 0, heads)
    return select(mask_HTS, 1, rows) if mask_HTS.shape[1] > 1 else mask_HTS
