"""What enters the first block: word, position and type embeddings, normalised and widened as declared."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.device.staging import to_device
from models.encoder.block import Parameters
from models.encoder.linear import Linear
from models.encoder.norm import Norm
from models.encoder.positions import position_ids, sinusoidal
from models.mechanism import PositionSpec
from models.protocol import Tokens
from models.spec import ModelSpec


def _table_rows(given: Tokens, at: PositionSpec) -> NDArray[np.int64]:
    """Return the row of the learned table that each token of a sequence reads, int64 [T].

    Positions belong to tokens: padding has none, wherever it stands, and takes none away from the others.
    By id as fairseq's RoBERTa counts (`create_position_ids_from_input_ids` of transformers), or by the mask
    as OPT does. Of the caller's own embeddings no id is known: every one of them has a position.
    """
    if at.padding is not None and given.ids is not None:
        real = given.ids != at.padding
    elif at.skip_masked and given.memory is None and given.mask is not None and given.mask.ndim == 1:
        real = given.mask
    else:
        return np.arange(at.offset, at.offset + given.queries, dtype=np.int64)
    counted: NDArray[np.int64] = np.cumsum(real, dtype=np.int64)
    return np.where(real, counted, 0) + (at.offset - 1)


class Table:
    """A table of embeddings [count, d], which may be narrower than the rows [N, d] that are looked up."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.scales: Tensor | None = None  # of int8: each row's, [count]

    def rows(self, indices_N: Tensor, dtype: torch.dtype) -> Tensor:
        """Return rows of the table, widened one by one where it is kept in narrower numbers."""
        rows_ND = F.embedding(indices_N, self.weight).to(dtype)
        return rows_ND if self.scales is None else rows_ND * self.scales[indices_N, None]

    def widened(self, rows: slice) -> Tensor:
        """Return some rows in float32: those of the table itself where it is kept so."""
        some = self.weight[rows].float()
        return some if self.scales is None else some * self.scales[rows, None]

    def quantize(self) -> None:
        """Keep whole numbers from −127 to 127 and a scale for each row; a million numbers at a time."""
        count, width = self.weight.shape
        kept, scales = torch.empty(count, width, dtype=torch.int8), torch.ones(count)
        step = max(1, 2**20 // max(1, width))
        for start in range(0, count, step):
            rows = self.weight[start : start + step].float()
            largest = rows.abs().amax(1)
            scales[start : start + step] = torch.where(largest > 0, largest / 127, 1.0)
            kept[start : start + step] = (rows / scales[start : start + step, None]).round().to(torch.int8)
        self.weight, self.scales = kept, scales

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return self.weight.nbytes + (0 if self.scales is None else self.scales.nbytes)


class Embedding:
    """Turns the inputs of a batch into packed rows [N, d_model].

    The caller's `embeddings` take the place of word embeddings: positions, types and the norm still apply.
    `dtype` is that of the rows; tables may be narrower.
    """

    def __init__(
        self, spec: ModelSpec, parameters: Parameters, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._spec = spec
        self._device = device
        self._dtype = dtype
        self._tokens, self._types, self._positions = (
            Table(parameters[one]) if (one := f"embedding.{which}.weight") in parameters else None
            for which in ("tokens", "types", "positions")
        )
        self._norm = self._widen = None
        if spec.embedding is not None and spec.embedding.norm:
            self._norm = Norm(parameters, "embedding.norm", replace(spec.norm, kind="layer"))
        if "embedding.widen.weight" in parameters:
            widen = parameters["embedding.widen.weight"]
            self._widen = Linear(widen, parameters.get("embedding.widen.bias"))

    def __call__(self, inputs: Sequence[Tokens]) -> Tensor:
        """Return what enters the first block, [N, d_model], sequences one after another."""
        x_ND = self._words(inputs)
        if self._types is not None:
            x_ND = x_ND + self._type_rows(self._types, inputs)
        at = self._spec.positions
        if self._positions is not None:
            rows = np.concatenate([_table_rows(given, at) for given in inputs])
            x_ND = x_ND + self._rows(self._positions, rows)
        elif at.kind == "sinusoidal":
            rows = position_ids(given.queries for given in inputs)
            table = sinusoidal(int(rows.max()) + 1, x_ND.shape[1]).to(x_ND)
            x_ND = x_ND + F.embedding(self._indices(rows), table)
        if self._norm is not None:
            x_ND = self._norm(x_ND)
        return x_ND if self._widen is None else self._widen(x_ND)

    @property
    def words(self) -> Table | None:
        """The table of words, where the model has one."""
        return self._tokens

    @property
    def kept(self) -> list[Table | Linear]:
        """What of its weights grows with words, positions or widths."""
        return [one for one in (self._tokens, self._positions, self._widen) if one is not None]

    def quantize(self) -> None:
        """Keep tables in int8, and what widens their rows in bfloat16."""
        for one in self.kept:
            if isinstance(one, Table):
                one.quantize()
            else:
                one.keep_as("bfloat16")

    def _words(self, inputs: Sequence[Tokens]) -> Tensor:
        if all(given.ids is not None for given in inputs):
            return self._look_up(np.concatenate([given.ids for given in inputs if given.ids is not None]))
        if all(given.embeddings is not None for given in inputs):
            arrays = [given.embeddings for given in inputs if given.embeddings is not None]
            return to_device(arrays, self._device, self._dtype)
        return torch.cat(
            [
                self._look_up(given.ids)
                if given.ids is not None
                else to_device([np.array(given.embeddings)], self._device, self._dtype)
                for given in inputs
            ]
        )

    def _look_up(self, ids_N: NDArray[Any]) -> Tensor:
        assert self._tokens is not None
        words_ND = self._rows(self._tokens, ids_N)
        assert self._spec.embedding is not None
        scale = self._spec.embedding.scale
        return words_ND if scale == 1.0 else words_ND * torch.tensor(scale, dtype=words_ND.dtype)

    def _type_rows(self, types: Table, inputs: Sequence[Tokens]) -> Tensor:
        if all(given.type_ids is None for given in inputs):
            return types.weight[0].to(self._dtype)
        ids = [np.zeros(g.queries, np.int64) if g.type_ids is None else g.type_ids for g in inputs]
        return self._rows(types, np.concatenate(ids))

    def _rows(self, table: Table, ids_N: NDArray[Any]) -> Tensor:
        return table.rows(self._indices(ids_N), self._dtype)

    def _indices(self, numbers: NDArray[Any]) -> Tensor:
        return to_device([numbers], self._device, torch.int64)
