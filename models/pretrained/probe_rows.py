"""How long a probe must be: past every number of a configuration that may be a position.

A model may do something at a row that its configuration names: a chunk, a window, a step of a temperature,
the capacity of an expert. Short sequences cannot show it.
"""

import re
from collections.abc import Iterator
from typing import Any

from models.pretrained.probe_samples import LONG, MOST_ROWS

__all__ = ["probe_rows", "unreached"]

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
