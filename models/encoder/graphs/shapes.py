"""For how many tokens and sequences there are graphs, and which of them a batch fits.

Attention is launched for as many sequences, each of as many tokens, as a graph may be given: what is not
there ends at once, but is launched. So graphs are for few long sequences or for many short ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
LONGEST = (128, 512, 2048, 8192)  # tokens of a sequence
PLACES = 1 << 15  # for the tokens of all sequences, were each as long as it may be: 256 tiles of 128 rows


@dataclass(frozen=True, slots=True)
class GraphShape:
    """Up to `tokens` rows of up to `sequences` sequences, none of more than `longest` rows."""

    tokens: int
    sequences: int
    longest: int

    def fits(self, tokens: int, sequences: int, longest: int) -> bool:
        """Whether a batch of so many tokens and sequences is one."""
        return tokens <= self.tokens and sequences <= self.sequences and longest <= self.longest

    @property
    def lengths(self) -> tuple[int, ...]:
        """Sequences that fill it, as long as they may be."""
        return (self.longest,) * (self.tokens // self.longest)


def shapes(longest: int | None = None) -> list[list[GraphShape]]:
    """Return all there are, those of as many tokens together, the fewest first.

    `longest`: how many tokens a sequence of the model may have.
    """
    kinds = [most for before, most in pairwise((0, *LONGEST)) if longest is None or before < longest]
    found = []
    for tokens in TOKENS:
        lengths = dict.fromkeys(min(most, tokens) for most in kinds)
        found.append([GraphShape(tokens, min(tokens, PLACES // most), most) for most in lengths])
    return found


def fitting(known: Iterable[GraphShape], lengths: Sequence[int]) -> GraphShape | None:
    """Return that for the fewest tokens, then for the shortest sequences, which a batch fits."""
    total, count, longest = sum(lengths), len(lengths), max(lengths)
    fits = [shape for shape in known if shape.fits(total, count, longest)]
    return min(fits, key=lambda shape: (shape.tokens, shape.longest), default=None)
