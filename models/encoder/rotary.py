"""Rotations of q and k by their positions (Su et al. 2021, equation 34), from tables of angles.

Angles are made in float32, in transformers' order: the same numbers, however far a token stands.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.compiled.panels import AngleTables
from models.device.staging import settle, to_device, used_here
from models.encoder.norm import Norm
from models.encoder.positions import position_ids
from models.encoder.rates import rotary_rates
from models.encoder.rowwise import launch
from models.encoder.rowwise.trial import turns_on
from models.mechanism import RotarySpec
from models.spec import ModelSpec

FIRST_TABLE = 512  # positions
TABLES_BY_LENGTH = 32


class Rotary:
    """Turns the first 2·`half` numbers of each head's q and k by angles that grow with the position.

    `by_length`: whether the angles depend on the sequence's length too; else there is one table of them, as
    long as was ever asked for.
    """

    def __init__(self, spec: RotarySpec, turned: int, device: torch.device, *, interleaved: bool) -> None:
        self.half = turned // 2
        self.interleaved = interleaved
        self.by_length = spec.scaling is not None and spec.scaling.by_length
        self._spec = spec
        self._device = device
        self._magnitude = 1.0 if spec.scaling is None else spec.scaling.magnitude
        self._rates = rotary_rates(spec, turned)
        self._of_length = lru_cache(TABLES_BY_LENGTH)(self._made_for)
        self._tables: list[AngleTables] = []  # the last one holds; others may still be read
        if not self.by_length:
            self._tables.append(self._made(FIRST_TABLE, self._rates))

    def tables(self, positions: int) -> AngleTables:
        """Return cosines and sines of a sequence of so many positions, float32 [positions or more, half]."""
        if self.by_length:
            assert self._spec.scaling is not None
            return self._of_length(self._spec.scaling.as_long(positions), _rounded(positions))
        tables = self._tables[-1]
        if tables.positions >= positions:
            return tables
        longer = self._made(_rounded(positions), self._rates)
        self._tables.append(longer)
        return longer

    def angles(self, lengths: Sequence[int], longest: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [N, 1, half] of packed rows, those of each part from position 0 on.

        Rows are of parts of so many `lengths`, and each part of a sequence of `longest` positions.
        """
        if self.by_length:
            parts = zip(lengths, longest, strict=True)
            every = [(self.tables(one), length) for length, one in parts]
            for tables, _ in every:  # of which others may take the place meanwhile
                used_here(tables.cosines)
                used_here(tables.sines)
            cosines = torch.cat([tables.cosines[:length] for tables, length in every])
            return cosines[:, None], torch.cat([tables.sines[:length] for tables, length in every])[:, None]
        position_N = to_device([position_ids(lengths)], self._device, torch.int64)
        tables = self.tables(max(lengths))
        return F.embedding(position_N, tables.cosines)[:, None], F.embedding(position_N, tables.sines)[
            :, None
        ]

    def turn(
        self,
        q_NHD: Tensor,
        k_NGD: Tensor,
        cosines: Tensor,
        sines: Tensor,
        norms: tuple[Norm, Norm] | None = None,
        *,
        in_place: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return q and k turned by `angles`, normalised before where `norms` are given.

        On a GPU in one launch. `in_place`: nobody else reads q and k, which may then be written over.
        """
        norm = "none" if norms is None else "rms" if norms[0].rms else "layer"
        width, interleaved = q_NHD.shape[-1], self.interleaved
        if turns_on(q_NHD.device, q_NHD.dtype, width, self.half, interleaved=interleaved, norm=norm):
            of_rows = None if norms is None else (norms[0].of_rows, norms[1].of_rows)
            return launch.turn(
                q_NHD, k_NGD, cosines, sines, of_rows, interleaved=interleaved, in_place=in_place
            )
        if norms is not None:
            q_NHD, k_NGD = norms[0](q_NHD), norms[1](k_NGD)
        return self.rotate(q_NHD, cosines, sines), self.rotate(k_NGD, cosines, sines)

    def rotate(self, x_NHD: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Return q or k [N, H, d_k] turned by `angles`, in its own dtype."""
        turned, kept = x_NHD[..., : 2 * self.half], x_NHD[..., 2 * self.half :]
        axis, pairs = (-1, (self.half, 2)) if self.interleaved else (-2, (2, self.half))
        one, other = turned.reshape(*turned.shape[:-1], *pairs).unbind(axis)
        c, s = cosines.to(x_NHD.dtype), sines.to(x_NHD.dtype)
        result = torch.stack((one * c - other * s, other * c + one * s), dim=axis).flatten(-2)
        return torch.cat((result, kept), dim=-1) if kept.shape[-1] else result

    def _made_for(self, longest: int, positions: int) -> AngleTables:
        return self._made(positions, rotary_rates(self._spec, 2 * self.half, longest=longest))

    def _made(self, positions: int, rates: Tensor) -> AngleTables:
        angles = torch.arange(positions, dtype=torch.float32)[:, None] * rates
        cosines, sines = angles.cos() * self._magnitude, angles.sin() * self._magnitude
        tables = AngleTables(cosines.to(self._device), sines.to(self._device))
        settle(self._device)
        return tables


def _rounded(positions: int) -> int:
    """Return how many positions a table is made for: lengths that are about the same share it."""
    return max(FIRST_TABLE, 1 << (positions - 1).bit_length())


def rotaries(spec: ModelSpec, device: torch.device) -> list[Rotary]:
    """Return what turns queries and keys in each layer, one for all that do it alike; else nothing."""
    if spec.positions.kind != "rotary":
        return []
    kinds = [spec.rotary_of(layer) for layer in range(spec.layers)]
    made = {
        kind: Rotary(kind, spec.turned, device, interleaved=spec.positions.interleaved) for kind in set(kinds)
    }
    return [made[kind] for kind in kinds]
