"""What is added to scores, and which keys are blocked, one block of rows at a time: never [H, T, S]."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.edits.ranges import Ranges, whether_of


@dataclass(frozen=True, slots=True)
class ScoreEdit:
    """`value` is added to scores of some heads, rows and keys; None: the keys are blocked."""

    heads: frozenset[int]
    queries: Ranges
    keys: Ranges
    value: float | None

    def region(
        self, heads: Sequence[int], rows: Sequence[int], keys: slice, device: torch.device
    ) -> Tensor | None:
        """Return bool [h or 1, R or 1, W or 1], what of a block it is of; None where that is nothing."""
        of_heads = whether_of(heads, self.heads, device)
        of_rows = self.queries.among(rows, device)
        of_keys = self.keys.among(range(keys.start, keys.stop), device)
        made = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
        for axis, chosen in enumerate((of_heads, of_rows, of_keys)):
            if chosen is not None:
                if device.type == "cpu" and not bool(chosen.any()):
                    return None
                made = made & chosen.view([-1 if at == axis else 1 for at in range(3)])
        return made


@dataclass(frozen=True, slots=True)
class ScoreEdits:
    """All of one sequence's `add` and `block` in a layer; which comes first changes nothing."""

    edits: tuple[ScoreEdit, ...]

    def block(
        self, heads: Sequence[int], rows: Sequence[int], keys: slice, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what is added, float32, and what is blocked, bool, each [h or 1, R or 1, W] or None."""
        added = blocked = None
        width = keys.stop - keys.start
        for one in self.edits:
            region = one.region(heads, rows, keys, device)
            if region is None:
                continue
            region = region.expand(-1, -1, width)
            if one.value is None:
                blocked = region if blocked is None else blocked | region
            else:
                more = region.float() * one.value
                added = more if added is None else added + more
        return added, blocked
