"""`head_profile`: six numbers a head, made in one walk.

Means over the chosen rows, as HeadVis' scripts have them: of the weight that a row gives itself; of that it
gives the row before it, over rows that have one; of its entropy in nats; of Σ A·|i − j|; the variance of that
distance, E[d²] − E[d]²; and induction: over rows whose token occurred before, the weight they give to the
places right after those occurrences (Olsson et al., "In-context Learning and Induction Heads", 2022).
"""

import torch
from torch import Tensor

from models.attention.blocks import Block, View
from models.attention.masks import positions
from models.device.staging import tensor_of, to_device

SELF, PREVIOUS, ENTROPY, DISTANCE, SQUARED, INDUCTION = range(6)


class Profiles:
    """Sums over rows of what makes the profile, float64 [H', 6], and over how many rows each is.

    `ids` [T]: of tokens; None: nothing is known to occur twice.
    """

    def __init__(self, view: View, ids: Tensor | None) -> None:
        device = view.q.device
        self._rows = positions(view.rows, device)
        self._ids = None if ids is None else to_device([ids.numpy()], device, torch.int64)
        self._sums = torch.zeros(len(view.heads), 6, dtype=torch.float64, device=device)
        rows = positions(view.rows, torch.device("cpu"))
        counts = [len(view.rows)] * 6
        counts[PREVIOUS] = int((rows > 0).sum())
        counts[INDUCTION] = 0 if ids is None else int(_repeated(ids)[rows].sum())
        self._counts = tensor_of(counts, device, torch.float64)

    def add(self, block: Block, weights_HRK: Tensor) -> None:
        """Add the rows of a block, which holds all keys that they see."""
        rows = self._rows[block.rows]
        keys = torch.arange(block.keys.start, block.keys.stop, device=rows.device)
        ahead_RK = keys - rows[:, None]
        distance_RK = ahead_RK.abs().float()
        ln = weights_HRK.clamp(min=torch.finfo(torch.float32).tiny).log_()
        of_rows = {
            SELF: _at(weights_HRK, rows - block.keys.start),
            PREVIOUS: _at(weights_HRK, rows - 1 - block.keys.start),
            ENTROPY: ln.mul_(weights_HRK).sum(-1).neg_(),
            DISTANCE: (weights_HRK * distance_RK).sum(-1),
            SQUARED: (weights_HRK * distance_RK.square()).sum(-1),
        }
        if self._ids is not None:
            before = self._ids[(keys - 1).clamp(min=0)]
            after_same = (before == self._ids[rows][:, None]) & (ahead_RK <= 0) & (keys > 0)
            of_rows[INDUCTION] = (weights_HRK * after_same).sum(-1)
        for column, of_row in of_rows.items():
            self._sums[block.heads, column] += of_row.sum(-1, dtype=torch.float64)

    def result(self) -> Tensor:
        """Return the profiles float32 [H', 6]; 0 where a column has no rows."""
        means = self._sums / self._counts.clamp(min=1)
        means[:, SQUARED] = (means[:, SQUARED] - means[:, DISTANCE].square()).clamp(min=0)
        return means.float()


def _at(weights_HRK: Tensor, places_R: Tensor) -> Tensor:
    """Return the weight of each row at one place [H, R]; 0 where there is none."""
    heads, _, keys = weights_HRK.shape
    there = (places_R >= 0) & (places_R < keys)
    places = places_R.clamp(0, keys - 1)[None, :, None].expand(heads, -1, 1)
    return weights_HRK.gather(-1, places)[..., 0] * there


def _repeated(ids: Tensor) -> Tensor:
    """Return bool [T], true where the same id stands somewhere before."""
    _, which = torch.unique(ids, return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(ids), device=ids.device)
    places = torch.arange(len(ids), device=ids.device)
    first.scatter_reduce_(0, which, places, "amin")
    return first[which] < places
