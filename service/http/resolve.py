"""From a checked request to Items: texts tokenized, shapes compared with the model and with each other.

Whatever is wrong with a request beyond its form is said here, before admission and before any compute.
The same for every format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import SpecError
from models.mechanism import AttentionSpec
from models.protocol import QKV, Item, ModelCard, Models, Text, Tokens
from service.errors import Invalid, Malformed, TooLarge
from service.http.schemas import (
    AttendInput,
    AttendRequest,
    AttentionInput,
    AttentionOptions,
    AttentionRequest,
)
from service.http.selection import narrowed, select_attend, select_attention
from service.http.texts.reading import Reading, is_text, read_text, read_together
from service.http.texts.spans import spans_of_characters, spans_of_words
from service.wire.dtypes import require_finite, widen
from service.wire.effort import spend

SEQUENCE_US, PROBLEM_US = 7.0, 20.0  # what one of them takes to be resolved, in microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """One request, ready for admission: an Item an input; `texts` is None where the input was no text."""

    items: list[Item]
    texts: list[Text | None]
    spans: list[tuple[tuple[int, int], ...] | None]  # where the server found them, for the reply to tell

    @property
    def tokens(self) -> int:
        """The query positions of all inputs."""
        return sum(item.input.queries for item in self.items)


def resolve_attend(
    request: AttendRequest,
    *,
    runtime: Models,
    how: Reading,
    read: Sequence[Text | None] | None = None,
) -> Resolved:
    """Return the sequences of a request to a model; `read` are its texts, where they have been read before.

    Raises Invalid (wrong width, shape, range, an output not offered, text without a tokenizer), TooLarge
    (sequence_too_long), Malformed (NaN, infinities).
    """
    card = how.card
    selection = select_attend(request, card)
    pooled = "pooled" in selection
    spend(SEQUENCE_US * len(request.inputs))
    if read is None and how.bare:
        read = read_together(request.inputs, how, runtime)
    items: list[Item] = []
    texts: list[Text | None] = []
    found: list[tuple[tuple[int, int], ...] | None] = []
    for index, given in enumerate(request.inputs):
        path = f"{how.field}[{index}]"
        if read is not None:
            text = read[index]
        else:
            text = read_text(given, index, how, runtime) if is_text(given, path, card) else None
        if text is not None and pooled:
            _check_pooled(text, card, path)
        tokens = _tokens(given, path, card=card, text=text)
        asked = request.spans if given.spans is None else given.spans
        spans = None if asked is None else _spans(asked, given, request.span_unit, text, path)
        if given.memory is not None:
            for name, wrong in (("spans", spans is not None), ("rollout", "rollout" in selection)):
                if wrong:
                    raise Invalid(f"{name} needs queries and keys of one sequence; {path} has memory")
        chosen = narrowed(selection, rows=request.rows, spans=spans, tokens=tokens.queries, path=path)
        items.append(Item(card=card, input=tokens, selection=chosen, deterministic=request.deterministic))
        texts.append(text)
        found.append(chosen.spans if asked == "words" or request.span_unit == "characters" else None)
    return Resolved(items=items, texts=texts, spans=found)


def resolve_attention(request: AttentionRequest) -> Resolved:
    """Return the problems of a request with its own queries, keys and values.

    Raises Invalid (shapes that do not fit each other, ranges, an unfit rule), Malformed (NaN, infinities).
    """
    rule = _rule(request)
    spend(PROBLEM_US * len(request.inputs))
    items: list[Item] = []
    for index, given in enumerate(request.inputs):
        path = f"inputs[{index}]"
        qkv = _qkv(given, path, rule=rule)
        selection = select_attention(request, heads=int(qkv.query.shape[0]))
        chosen = narrowed(selection, rows=request.rows, spans=None, tokens=qkv.queries, path=path)
        items.append(Item(card=None, input=qkv, selection=chosen, deterministic=request.deterministic))
    return Resolved(items=items, texts=[None] * len(items), spans=[None] * len(items))


def _check_pooled(text: Text, card: ModelCard, path: str) -> None:
    """Raise TooLarge for a text that its model's own files would have cut before it is pooled."""
    limit = card.max_text_tokens
    if limit is not None and len(text.ids) > limit:
        by = f", as {card.text_limit} says" if card.text_limit else ""
        raise TooLarge(
            f"{path}: the text has {len(text.ids)} tokens, and model {card.name} pools at most {limit}{by}; "
            "shorten it or set truncate",
            code="sequence_too_long",
        )


def _spans(
    spans: Sequence[Sequence[int]] | Literal["words"],
    given: AttendInput,
    unit: str,
    text: Text | None,
    path: str,
) -> Sequence[Sequence[int]]:
    """Return the spans of an input as ranges of its tokens."""
    if spans != "words" and unit == "tokens":
        return spans
    if text is None or given.text is None:
        raise Invalid(f"words and characters are of texts, and {path} is none; give spans of its positions")
    if spans == "words":
        return spans_of_words(text, given.text, given.pair, path=path)
    if given.pair is not None:
        raise Invalid(f"spans of characters are of one text, and {path} is a pair; give spans of tokens")
    return spans_of_characters(spans, text, given.text, path=path)


def _tokens(given: AttendInput, path: str, *, card: ModelCard, text: Text | None) -> Tokens:
    """Return one sequence for the model, checked against its sizes."""
    embeddings = ids = type_ids = None
    if text is not None:
        ids, type_ids, length = text.ids, text.type_ids, len(text.ids)
    elif given.token_ids is not None:
        ids = _ids(given.token_ids, f"{path}.token_ids", vocabulary=card.vocabulary)
        length = len(ids)
    else:
        embeddings = _vectors(given.embeddings, f"{path}.embeddings", width=card.width)
        length = len(embeddings)
    if length == 0:
        raise Invalid(f"{path} is an empty sequence; give at least one token")
    if given.type_ids is not None:
        type_ids = _type_ids(given.type_ids, f"{path}.type_ids", length=length, card=card)
    if card.max_tokens is not None and length > card.max_tokens:
        raise TooLarge(
            f"{path} has {length} tokens; model {card.name} has positions for {card.max_tokens}",
            code="sequence_too_long",
        )
    memory = None
    if given.memory is not None:
        if not card.cross:
            raise Invalid(f"{path} has memory; model {card.name} has no cross-attention")
        memory = _vectors(given.memory, f"{path}.memory", width=card.d_model)
    mask = None
    if given.mask is not None:
        keys = card.dims(length, None if memory is None else len(memory)).S
        mask = _flags(given.mask, f"{path}.mask", shapes=((keys,), (length, keys)))
    return Tokens(embeddings=embeddings, ids=ids, type_ids=type_ids, memory=memory, mask=mask)


def _ids(array: NDArray[Any], path: str, *, vocabulary: int | None) -> NDArray[np.int64]:
    if array.ndim != 1:
        raise Invalid(f"{path} has shape {list(array.shape)}; give [T]")
    if array.dtype.kind != "i":
        raise Invalid(f"{path} must be integers; it is {array.dtype}")
    ids = array.astype(np.int64, copy=False)
    limit = vocabulary if vocabulary is not None else 2**31
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        at = int(np.argmax((ids < 0) | (ids >= limit)))
        raise Invalid(f"{path}[{at}] is {int(ids[at])}; the vocabulary has ids from 0 to {limit - 1}")
    return ids


def _type_ids(array: NDArray[Any], path: str, *, length: int, card: ModelCard) -> NDArray[np.int64]:
    """Return the rows of the type table that a sequence reads, int64 [T]; raises Invalid."""
    if array.shape != (length,):
        raise Invalid(f"{path} has shape {list(array.shape)}; give [{length}], one a token")
    if array.dtype.kind != "i":
        raise Invalid(f"{path} must be integers; it is {array.dtype}")
    ids = array.astype(np.int64, copy=False)
    largest = max(1, card.types) - 1
    wrong = (ids < 0) | (ids > largest)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise Invalid(
            f"{path}[{at}] is {int(ids[at])}; model {card.name} has types from 0 to {largest}"
            if card.types
            else f"{path}[{at}] is {int(ids[at])}; model {card.name} has no token types: give zeros, or none"
        )
    return ids


def _vectors(array: NDArray[Any] | None, path: str, *, width: int) -> NDArray[np.float32]:
    """Return `[length, width]` float32, or raise Invalid."""
    assert array is not None
    numbers = _numbers(array, path)
    if numbers.ndim >= 1 and len(numbers) == 0:
        raise Invalid(f"{path} is empty; give at least one row of {width} numbers")
    if numbers.ndim != 2 or numbers.shape[1] != width:
        raise Invalid(
            f"{path} has shape {list(numbers.shape)}; the model reads rows of {width}: give [length, {width}]"
        )
    return numbers


def _numbers(array: NDArray[Any], path: str) -> NDArray[np.float32]:
    """Return float32 of float32, float16 or bfloat16 (uint16), native and C-contiguous; all finite."""
    if array.dtype.kind != "f" and array.dtype != np.uint16:
        raise Invalid(f"{path} must be floating-point numbers; it is {array.dtype}")
    numbers = np.ascontiguousarray(widen(array), dtype=np.float32)
    require_finite(numbers, name=path)
    return numbers


def _flags(array: NDArray[Any], path: str, *, shapes: Sequence[tuple[int, ...]]) -> NDArray[np.bool_]:
    """Return a mask that says which keys may be attended: booleans as they are, or numbers 0 and 1."""
    _require_shape(array, path, shapes)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array)
    numbers = widen(array) if array.dtype == np.uint16 else array
    flags: NDArray[np.bool_] = np.ascontiguousarray(numbers == 1)
    if not (flags | (numbers == 0)).all():
        raise Invalid(
            f"{path} has other numbers than 0 and 1: give true or 1 where a key may be attended, else false"
        )
    return flags


def _require_shape(array: NDArray[Any], path: str, shapes: Sequence[tuple[int, ...]]) -> None:
    if array.shape not in shapes:
        raise Invalid(
            f"{path} has shape {list(array.shape)}; give {' or '.join(str(list(shape)) for shape in shapes)}"
        )


def _mask(array: NDArray[Any] | None, path: str, *, shapes: Sequence[tuple[int, ...]]) -> NDArray[Any] | None:
    """Return a mask, bool or float32 with −inf allowed, of one of these shapes."""
    if array is None:
        return None
    _require_shape(array, path, shapes)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" and array.dtype != np.uint16:
        raise Invalid(f"{path} must be booleans or floating-point numbers; it is {array.dtype}")
    bias = np.ascontiguousarray(widen(array), dtype=np.float32)
    if np.isnan(bias).any() or np.isposinf(bias).any():
        raise Malformed(f"{path} holds NaN or +Infinity; only −Infinity, which masks, is allowed")
    return bias


def _rule(options: AttentionOptions) -> AttentionSpec:
    try:
        return AttentionSpec(
            similarity=options.similarity,
            scale=options.scale,
            causal=options.causal,
            causal_offset=options.causal_offset,
            left_window=options.left_window,
            right_window=options.right_window,
            softcap=options.softcap,
            exclude_self=options.exclude_self,
        )
    except SpecError as error:
        raise Invalid(str(error)) from None


def _qkv(given: AttentionInput, path: str, *, rule: AttentionSpec) -> QKV:
    """Return one problem whose three shapes fit each other; 2-D ones are given one head."""
    arrays = {name: _numbers(getattr(given, name), f"{path}.{name}") for name in ("query", "key", "value")}
    ranks = {array.ndim for array in arrays.values()}
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    if len(ranks) != 1 or not ranks <= {2, 3}:
        raise Invalid(f"{path} has {shapes}; give all three [H, T, d] or all three [T, d]")
    if not all(array.size for array in arrays.values()):
        raise Invalid(f"{path} has {shapes}; no axis may be empty")
    head_axis = ranks == {3}
    query, key, value = (array if head_axis else array[None] for array in arrays.values())
    if key.shape[:2] != value.shape[:2]:
        raise Invalid(f"{path} has {shapes}; key and value must have as many heads and positions")
    if query.shape[2] != key.shape[2]:
        raise Invalid(f"{path} has {shapes}; query and key must be equally wide")
    if query.shape[0] % key.shape[0]:
        raise Invalid(f"{path} has {shapes}; the heads of key must divide the heads of query")
    heads, length, keys = query.shape[0], query.shape[1], key.shape[1]
    shapes_of_mask = ((keys,), (length, keys), (heads, length, keys))
    mask = _mask(given.mask, f"{path}.mask", shapes=shapes_of_mask if head_axis else shapes_of_mask[:2])
    return QKV(query=query, key=key, value=value, mask=mask, rule=rule, head_axis=head_axis)
