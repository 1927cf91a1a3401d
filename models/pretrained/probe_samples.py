"""What a probe gives to a model: ordinary sequences, odd ones, and masked ones, as ids or as embeddings."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.pretrained.tower import Tower

__all__ = ["LONG", "MOST_ROWS", "Sample", "Samples", "Trial"]

SOURCES = 5  # rows of memory; no sequence has as many, so that self- and cross-attention can be told apart
LONG, MOST_ROWS = 300, 1024  # rows of the long sequence: so many, or past a number that is a position


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One sequence to try: ids [T] or embeddings [T, d], with the memory [S, d] and mask [T] it is given."""

    ids: Tensor | None
    embeddings: Tensor | None = None
    memory: Tensor | None = None
    mask: Tensor | None = None

    @property
    def rows(self) -> int:
        """How many positions it has."""
        return len(self.source)

    @property
    def source(self) -> Tensor:
        """What the model is given of it."""
        source = self.ids if self.ids is not None else self.embeddings
        assert source is not None
        return source


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What samples are made of: their width, the special ids, how many rows are long, the stated limit."""

    width: int
    padding: int | None = None
    special: tuple[int, ...] = ()
    rows: int = LONG
    positions: int | None = None


class Samples:
    """Draws samples for a tower: any words, or any embeddings where it has none."""

    def __init__(self, tower: Tower, trial: Trial) -> None:
        self._tower, self._trial = tower, trial
        self._chance = torch.Generator().manual_seed(0)
        self._memory = None
        if tower.calls_per_layer == 2:
            self._memory = torch.randn(SOURCES, trial.width, generator=self._chance)
        apart = {*trial.special, trial.padding}
        words = [word for word in range(tower.vocabulary) if word not in apart] or [0]
        self._words = torch.tensor(words)
        self.by_ids = tower.table is not None and "input_ids" in tower.parameters

    def plain(self, length: int) -> Sample:
        """Return a sequence of ordinary words, no padding and nothing special among them."""
        if self._tower.table is None:
            vectors = torch.randn(length, self._trial.width, generator=self._chance)
            return Sample(None, vectors, self._memory)
        drawn = torch.randint(len(self._words), (length,), generator=self._chance)
        return self._of(self._words[drawn])

    def special(self, length: int) -> Sample:
        """Return one with padding inside it, and each special word, as far as it has room."""
        sample = self.plain(length)
        if sample.ids is None or not self.by_ids:
            return sample
        ids, put = sample.ids.clone(), [*self._trial.special]
        if self._trial.padding is not None:
            put = [self._trial.padding, *put, self._trial.padding]
        for place, word in zip(range(1, length), put, strict=False):  # the first one stays a word
            ids[place] = word
        return self._of(ids)

    def masked(self, length: int) -> Sample:
        """Return one padded on the left, with a gap in its mask."""
        sample = self.plain(length)
        mask = torch.ones(length, dtype=torch.bool)
        mask[:2] = False
        mask[length // 2] = False
        if sample.ids is not None and self._trial.padding is not None:
            sample = self._of(torch.where(mask, sample.ids, self._trial.padding))
        return replace(sample, mask=mask)

    def embedded(self, sample: Sample) -> Sample:
        """Return the same sequence as rows of the table of words."""
        assert sample.ids is not None
        assert self._tower.table is not None
        rows: Tensor = self._tower.table(sample.ids[None])[0]
        return replace(sample, ids=None, embeddings=rows)

    def _of(self, ids: Tensor) -> Sample:
        sample = Sample(ids, None, self._memory)
        return sample if self.by_ids else self.embedded(sample)
