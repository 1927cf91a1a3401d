"""What a folder says of embeddings beyond the pooling: prompts before texts, vectors cut to fewer numbers.

Beside `embeddings.py`, which asks here; as sentence-transformers' `encode` does it.
"""

import json
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.errors import TextError, TooLong
from models.protocol import ModelCard, Models, Tokens
from service.errors import Invalid
from service.http.resolve import Resolved
from service.http.schemas import AttendInput
from service.http.texts.reading import text_ms
from service.wire.effort import spend
from service.wire.names import quoted

MARKED_US = 4.0  # what a sequence takes, in microseconds

ALWAYS = ("query", "document")  # names that sentence-transformers has for every model, empty unless said
MOST_NAMED = 16


def prompt_of(name: str | None, card: ModelCard) -> str:
    """Return the prompt by its name, or the folder's default; raises Invalid for a name it does not have."""
    prompts = card.pooled.prompts if card.pooled else {}
    if name is None:
        name = card.pooled.default_prompt if card.pooled else None
        return "" if name is None else prompts.get(name, "")
    if name not in prompts and name not in ALWAYS:
        known = ", ".join(json.dumps(one) for one in [*prompts][:MOST_NAMED])
        raise Invalid(
            f"prompt_name is {quoted(name)}, which model {card.name} does not have. "
            f"Available prompts: [{known}]"  # text-embeddings-inference's words, which its clients read
        )
    return prompts.get(name, "")


def prompted(inputs: list[AttendInput], prompt: str) -> list[AttendInput]:
    """Return the inputs with a prompt before each text; token ids are taken as they are."""
    if not prompt:
        return inputs
    return [one if one.text is None else AttendInput(text=prompt + one.text) for one in inputs]


def mark_prompt(resolved: Resolved, prompt: str, *, card: ModelCard, runtime: Models) -> Resolved:
    """Return the sequences, told how many of their tokens are the prompt's where the pooling leaves them out.

    Counted as sentence-transformers does: of the prompt alone, but for a special token at its end.
    """
    if not prompt or card.pooled is None or card.pooled.include_prompt:
        return resolved
    spend(1000 * text_ms([AttendInput(text=prompt)], card))
    try:
        alone = runtime.tokenize(card, prompt, truncate=True)
    except (TextError, TooLong) as problem:
        raise Invalid(f"the prompt cannot be read: {problem}") from None
    count = len(alone.ids) - (1 if alone.special[-1] else 0)
    spend(MARKED_US * len(resolved.items))
    items = []
    for item, text in zip(resolved.items, resolved.texts, strict=True):
        assert isinstance(item.input, Tokens)
        items.append(item if text is None else replace(item, input=replace(item.input, prompt=count)))
    return replace(resolved, items=items)


def width_of(dimensions: int | None, card: ModelCard) -> int | None:
    """Return how many numbers of a vector are asked for, None for those that are given without asking.

    Raises Invalid where the folder does not say that its vectors may be cut so.
    """
    about = card.pooled
    whole = card.d_model if about is None else about.width
    if dimensions is None or dimensions == whole:
        return dimensions
    asked = f"dimensions is {dimensions}; model {card.name} gives {whole}"
    if about is None or not about.cut:
        raise Invalid(f"{asked}, and its folder does not say that they may be cut; leave it out")
    if about.dimensions and dimensions not in about.dimensions:
        allowed = ", ".join(map(str, about.dimensions))
        raise Invalid(f"{asked}, which may be cut to {allowed}; choose one of these")
    if dimensions > whole:
        raise Invalid(f"{asked}; choose from 1 to {whole}")
    return dimensions


def cut(vectors: list[NDArray[np.float32]], width: int | None, card: ModelCard) -> list[NDArray[np.float32]]:
    """Return vectors of so many numbers, normalised again where they were; by default as the folder says.

    The folder's own `truncate_dim` cuts without normalising, which is what sentence-transformers does.
    """
    if card.pooled is None:
        return vectors
    if width is None:
        own = card.pooled.truncate_dim
        return vectors if own is None else [vector[:own] for vector in vectors]
    if width >= card.pooled.width:
        return vectors
    kept = [vector[:width] for vector in vectors]
    return [unit(vector) for vector in kept] if card.pooled.normalized else kept


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector of length 1, zeros as they are."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return vector if length == 0 else (vector / length).astype(np.float32)
