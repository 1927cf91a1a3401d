"""Scores of words: rows times a table of one vector a word, a block of words at a time.

The table stays as embeddings are looked up in it, one row a word: a tied one is not held twice. Compiled
products want one factor in panels; here it is the rows, of which there are few, and the words are gone over.
So a score's bits depend on its row and its word alone.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.compiled.native import native
from models.encoder.embedding import Table
from models.pooling_spec import PredictionSpec

MOST_WORDS, MOST_NUMBERS = 4096, 1 << 22  # of a block: words, and numbers of their vectors (16 MiB widened)
LEAST_WORDS = 64
ROWS_AT_ONCE = 256


class Words(Protocol):
    """What gives scores of words: a WordTable, or a head of another library's."""

    words: int

    @property
    def rows_at_once(self) -> int:
        """Of how many rows scores may be held."""

    def blocks(self, rows_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Give the scores of rows, float32 [N, words of a block], and which word the block begins with."""


class WordTable:
    """A table [V, D], what is added to its scores, and by what they are scaled and capped.

    N rows, D numbers in each, V words.
    """

    def __init__(self, table: Table, spec: PredictionSpec, bias: Tensor | None) -> None:
        self.table = table
        self._bias = None if bias is None else bias.float()
        self._scale, self._softcap = spec.scale, spec.softcap
        self.words, self.width = (int(size) for size in table.weight.shape)
        # Of the width alone: sums over all words are made block by block, in this order.
        self.at_once = max(LEAST_WORDS, min(MOST_WORDS, MOST_NUMBERS // self.width))

    @property
    def rows_at_once(self) -> int:
        """Of how many rows scores may be held: 4 MiB of a block of words."""
        return ROWS_AT_ONCE

    @property
    def nbytes(self) -> int:
        """Bytes of the table and of what is added."""
        return self.table.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def blocks(self, rows_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Give the scores of rows, float32 [N, words of a block], and which word the block begins with."""
        rows_ND = rows_ND.float().contiguous()
        ours = native() if rows_ND.device.type == "cpu" else None
        panels = None if ours is None else ours.lay_out(rows_ND, None)
        for start in range(0, self.words, self.at_once):
            words = slice(start, min(start + self.at_once, self.words))
            vectors_VD = self.table.widened(words)
            if ours is None or panels is None:
                scores_NV = F.linear(rows_ND, vectors_VD)
            else:
                scores_NV = ours.linear(vectors_VD, panels).mT.contiguous()
            yield start, self._finished(scores_NV, words)

    def _finished(self, scores_NV: Tensor, words: slice) -> Tensor:
        if self._bias is not None:
            scores_NV += self._bias[words]
        if self._scale != 1.0:
            scores_NV *= self._scale
        if self._softcap is not None:
            torch.tanh_(scores_NV.div_(self._softcap)).mul_(self._softcap)
        return scores_NV
