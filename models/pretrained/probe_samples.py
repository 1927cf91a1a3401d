"""What a probe gives to a model: ordinary sequences, odd ones, and masked ones, as ids or as embeddings.

And one that is long: past every number of a configuration that may be a position. A model may do something at
a row that its configuration names: a chunk, a window, a step of a temperature, the capacity of an expert.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from models.pretrained.tower import Tower

SOURCES = 5  # rows of memory; no sequence has as many, so that self- and cross-attention can be told apart
LONG, MOST_ROWS = 300, 1024  # rows of the long sequence: so many, or past a number that is a position
# Numbers that are sizes, names of words, or constants of formulas: no row is compared with them.
SIZES = re.compile(
    r"vocab|hidden|intermediate|embedding_|embed|ffn|inner|^d_|^dim$|_dim$|_dims$|width|theta|rope_base|rotary|"
    r"token|_id$|_ids$|_index$|_rank$|^num_|^n_|heads|layers|eps$|std$|_size_per|multiplier|factor|scaling|"
    r"_output_size|image|pixel|patch|channels|audio|mel_|version|mlp|dropout|coef|seed"
)
# Positions, but of masks, which are cut for every sequence, or of rows turned by their own position_ids.
OWN = re.compile(
    r"sliding_window|local_attention|max_position|n_positions|n_ctx|max_seq|seq_len|max_length|^window"
)
AHEAD = 16  # rows past the number


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


def probe_rows(config: Any, positions: int | None) -> int:
    """Return how many rows the long sequence of a probe has, at most as many as there are positions."""
    numbers = [value for name, value in _numbers(config.to_dict()) if not SIZES.search(name)]
    rows = max([LONG, *(value + AHEAD for value in numbers if value + AHEAD <= MOST_ROWS)])
    return rows if positions is None else min(rows, positions)


def unreached(config: Any) -> str | None:
    """Return which number may be a position and is reached by no probe, None where there is none."""
    for name, value in _numbers(config.to_dict()):
        if value + AHEAD > MOST_ROWS and not SIZES.search(name) and not OWN.search(name):
            return f"{name} is {value}"
    return None


def _numbers(found: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the whole numbers of a configuration, each with the name of its field."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from _numbers(value, str(key) if isinstance(key, str) and not key.isdigit() else name)
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _numbers(value, name)
    elif isinstance(found, int | float) and not isinstance(found, bool) and found == found // 1 and found > 1:
        yield name, int(found)
