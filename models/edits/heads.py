"""z of heads, before W_O: set, taken from another sequence of the batch, and scaled, in this order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.outputs import Spans


@dataclass(frozen=True, slots=True, eq=False)
class HeadEdit:
    """Rows of some heads; each has its place among the P of a value.

    `value`: of `set` z float32 [P, T', d_v] of the chosen rows; of `from` the place in the batch of the
    sequence whose z is taken; of `scale` what z is multiplied by.
    """

    verb: Literal["set", "from", "scale"]
    heads: Mapping[int, int]
    queries: Spans | None
    value: NDArray[np.float32] | float


@dataclass(frozen=True, slots=True, eq=False)
class HeadEdits:
    """All that a layer's edits do to one sequence's z, in the order in which it is done."""

    edits: tuple[HeadEdit, ...]

    @property
    def sources(self) -> frozenset[int]:
        """The places in the batch of the sequences from which z is taken."""
        return frozenset(int(one.value) for one in self.edits if one.verb == "from")

    def apply(self, z_THV: Tensor, z_of: Callable[[int], Tensor] | None = None) -> None:
        """Do them in place; `z_of` gives the z [T, H, d_v] of another sequence by its place in the batch."""
        for one in self.edits:
            for head, place in one.heads.items():
                first = 0  # of the rows of a value
                for start, stop in one.queries if one.queries is not None else ((0, z_THV.shape[0]),):
                    rows = z_THV[start:stop, head]
                    if isinstance(one.value, np.ndarray):
                        rows.copy_(torch.tensor(one.value[place, first : first + stop - start]))
                    elif one.verb == "from":
                        assert z_of is not None
                        rows.copy_(z_of(int(one.value))[start:stop, head])
                    else:
                        rows.mul_(one.value)
                    first += stop - start
