"""Attention and predictions as lines of a terminal, where most first looks are taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

WIDEST_STRIP = 64  # cells; longer rows are shown as the largest weight of each stretch
LONGEST_LABEL = 16
LEAST_NAMED = 0.005  # less is written 0.00
SHADES = " ░▒▓█"  # for terminals, and files, without colours
DARK = "rgb(24,26,38)"


def heatmap(
    weights: NDArray[Any], tokens: Sequence[str], *, top_k: int, rows: Sequence[str] | None = None
) -> list[Text]:
    """Return one line a row of `weights` [T, S]: the token, S cells as bright as it attends, the k largest.

    Weights that two decimals would write as 0.00 are not named.
    `tokens` name the keys, and the queries unless `rows` do. Rows of more than 64 keys are drawn in
    stretches.
    """
    labels = [_label(token) for token in tokens]
    count, keys = weights.shape
    named = [_label(row) for row in rows] if rows is not None else labels if count == keys else None
    names = [str(place) for place in range(count)] if named is None else named
    width = max((len(name) for name in names), default=0)
    strips = _stretches(weights)
    cell = 2 if strips.shape[1] <= WIDEST_STRIP // 2 else 1
    brightest = float(strips.max(initial=0.0)) or 1.0
    lines = []
    for place in range(count):
        line = Text(f"{names[place]:>{width}} ")
        for weight in strips[place]:
            share = float(weight) / brightest
            line.append(SHADES[round(share * (len(SHADES) - 1))] * cell, style=f"{_colour(share)} on {DARK}")
        line.append("  ")
        for key in np.argsort(-weights[place], kind="stable")[:top_k]:
            weight = float(weights[place, key])
            if weight < LEAST_NAMED:
                break
            name = labels[key] if key < len(labels) else str(key)
            line.append(f"{name} ", style="bold" if weight >= 0.5 else "")
            line.append(f"{weight:.2f}  ", style=f"{_colour(0.3 + 0.7 * weight)}")
        lines.append(line)
    return lines


def _stretches(weights: NDArray[Any]) -> NDArray[Any]:
    """Return at most 64 columns, each the largest of a stretch of keys."""
    keys = weights.shape[1]
    if keys <= WIDEST_STRIP:
        return weights
    starts = np.linspace(0, keys, WIDEST_STRIP, endpoint=False).astype(int)
    reduced: NDArray[Any] = np.maximum.reduceat(weights, starts, axis=1)
    return reduced


def _colour(share: float) -> str:
    """Return a colour from the terminal's dark to bright amber for a share from 0 to 1."""
    dark, bright = (24, 26, 38), (255, 176, 46)
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(low + (high - low) * share) for low, high in zip(dark, bright, strict=True))
    return f"rgb({red},{green},{blue})"


def _label(token: str) -> str:
    printable = "".join(character if character.isprintable() else "·" for character in token)
    return printable if len(printable) <= LONGEST_LABEL else printable[: LONGEST_LABEL - 1] + "…"


def predictions(runs: Sequence[tuple[str, Sequence[str], NDArray[Any]]]) -> Table:
    """Return a table of next tokens: a pair of columns a run (title, tokens [k], log-probabilities [k])."""
    table = Table(box=None, pad_edge=False)
    for title, _, _ in runs:
        table.add_column(title, no_wrap=True)
        table.add_column("", justify="right", style="dim")
    for place in range(max(len(tokens) for _, tokens, _ in runs)):
        cells = []
        for _, tokens, logprobs in runs:
            there = place < len(tokens)
            cells += [repr(tokens[place]), f"{np.exp(logprobs[place]):.1%}"] if there else ["", ""]
        table.add_row(*map(Text, cells))
    return table
