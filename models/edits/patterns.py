"""Weights that take the place of those of the softmax, in rows of some heads, a block of rows at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.edit import Pattern
from models.edits.ranges import Ranges


@dataclass(frozen=True, slots=True, eq=False)
class PatternEdit:
    """Rows of some heads, and their weights: a name, or float32 [1 or P, T', S], T' the chosen rows.

    `heads`: of each its place among P. By name a row attends one key: its own, the one before it, as near as
    there are keys, or the first; by `uniform` all keys that it may attend, alike. Nothing else hides a key.
    """

    heads: Mapping[int, int]
    queries: Ranges
    value: Pattern | NDArray[np.float32]

    def weights(
        self, head: int, rows: Sequence[int], *, keys: int, diagonal: int, seen: Tensor | None
    ) -> Tensor:
        """Return weights [R, S] of some of the chosen rows; `seen` [R or 1, S] is what they may attend."""
        if not isinstance(self.value, str):
            of_head = self.value[self.heads[head] if self.value.shape[0] > 1 else 0]
            return torch.from_numpy(of_head[self.queries.ranks(rows)])
        if self.value == "uniform":
            alike = torch.ones(1, keys) if seen is None else seen.float()
            return (alike / alike.sum(-1, keepdim=True).clamp(min=1.0)).expand(len(rows), keys)
        ahead = {"previous": diagonal - 1, "self": diagonal}
        at = torch.tensor(rows) + ahead[self.value] if self.value in ahead else torch.zeros(len(rows))
        return (torch.arange(keys) == at.clamp(0, keys - 1)[:, None]).float()


@dataclass(frozen=True, slots=True, eq=False)
class Patterns:
    """All of one sequence's `pattern` in a layer, in the order given: of two for one row the later holds."""

    edits: tuple[PatternEdit, ...]

    def put(
        self,
        weights_HRS: Tensor,
        heads: Sequence[int],
        rows: Sequence[int],
        *,
        diagonal: int,
        blocked: Tensor | None,
    ) -> Tensor:
        """Put them into a block of weights of all keys, in place.

        `blocked` [h or 1, R or 1, S]: what may not be attended, or None. `diagonal`: by how much a row's own
        key is ahead of it.
        """
        device, keys = weights_HRS.device, weights_HRS.shape[-1]
        for one in self.edits:
            among = one.queries.among(rows, device)
            at = torch.arange(len(rows), device=device) if among is None else among.nonzero()[:, 0]
            chosen = [rows[place] for place in at.tolist()]
            for place, head in enumerate(heads) if chosen else ():
                if head not in one.heads:
                    continue
                seen = None if blocked is None else ~blocked[place if blocked.shape[0] > 1 else 0]
                seen = seen if seen is None or seen.shape[0] == 1 else seen[at]
                made = one.weights(head, chosen, keys=keys, diagonal=diagonal, seen=seen)
                weights_HRS[place, at] = made.to(device)
        return weights_HRS
