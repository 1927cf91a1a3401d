"""Which tokens of a text are left when it is cut, as the `tokenizers` package cuts.

Here, so that a limit that each request may name needs no tokenizer of its own, which takes 20 ms to make.
Source: tokenizers 0.23, `tokenizers/src/utils/truncation.rs`, the strategy `longest_first`.
"""

import json
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

ONCE = {"single": ["A"], "pair": ["A", "B"]}


def kept(parts: NDArray[np.int64], room: int, *, pair: bool, side: str) -> NDArray[np.intp]:
    """Return the places of the tokens that are left, ascending.

    `parts` [T]: 0 and 1 for tokens of the two texts, −1 for those that were put around them, which stay.
    `room`: tokens of texts that may stay. The longer of a pair is cut first.
    """
    first, second = (int((parts == part).sum()) for part in (0, 1))
    lengths = _lengths(first, second, room) if pair else (min(first, room), second)
    stays = parts < 0
    for part, length in enumerate(lengths):
        places = np.flatnonzero(parts == part)
        stays[places[len(places) - length :] if side == "left" else places[:length]] = True
    return np.flatnonzero(stays)


def _lengths(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how much is left of each of a pair."""
    if first + second <= room:
        return first, second
    shorter, longer = sorted((first, second))
    longer = shorter if shorter > room else max(shorter, room - shorter)
    if shorter + longer > room:
        shorter = room // 2
        longer = shorter + room % 2
    return (longer, shorter) if first > second else (shorter, longer)


def cuts_by_place(tokenizer: tokenizers.Tokenizer, side: str) -> bool:
    """Whether a cut text is the whole one without some of its tokens.

    It is not where a template has a text twice or not at all, nor where the first token's offsets are made
    otherwise than the others' and another one becomes the first.
    """
    if tokenizer.post_processor is None:
        return True
    return _by_place(json.loads(tokenizer.post_processor.__getstate__()), side)


def _by_place(state: dict[str, Any], side: str) -> bool:
    kind = state.get("type")
    if kind == "Sequence":
        return all(_by_place(one, side) for one in state["processors"])
    if kind == "TemplateProcessing":
        return all(_texts(state[name]) == texts for name, texts in ONCE.items())
    if kind in ("ByteLevel", "RobertaProcessing"):
        return side == "right" or not (state["add_prefix_space"] and state["trim_offsets"])
    return kind == "BertProcessing"


def _texts(pieces: list[dict[str, Any]]) -> list[str]:
    return [piece["Sequence"]["id"] for piece in pieces if "Sequence" in piece]
