"""What a caller may hand over as a sequence, and how it becomes tensors or JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heed_client.edits import Edit
from heed_client.options import Spans, spans_as_json

__all__ = ["Arrays", "Input", "InputLike", "Inputs", "as_inputs", "as_qkv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One sequence: exactly one of `text`, `token_ids` [T] and `embeddings` [T, d_model].

    `pair` is a second text, after the model's separator. `type_ids` [T], beside token ids or embeddings, says
    of which segment each is: a tokenizer's `token_type_ids`. `memory` [S, d_model] makes it cross-attention.
    `mask`, [S] or [T, S], is true, or 1, where a key may be attended. `spans`: half-open token ranges;
    `weights` is then summed over the queries and keys of each pair of them; a mapping names them, to be
    spoken of. `edits`: what is changed inside attention. `targets`: as the option, for this input.
    """

    text: str | None = None
    pair: str | None = None
    token_ids: ArrayLike | None = None
    type_ids: ArrayLike | None = None
    embeddings: ArrayLike | None = None
    memory: ArrayLike | None = None
    mask: ArrayLike | None = None
    spans: Spans | None = None
    edits: Sequence[Edit] = ()
    targets: Sequence[int | str] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("text", "token_ids", "embeddings") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"an Input needs exactly one of text, token_ids and embeddings; it has {len(given)}"
            )

    def as_json(self) -> dict[str, Any]:
        """Return what only JSON carries: texts, targets and named spans."""
        found: dict[str, Any] = {"text": self.text, "pair": self.pair}
        if self.targets is not None:
            found["targets"] = [one if isinstance(one, str) else int(one) for one in self.targets]
        if isinstance(self.spans, Mapping):
            found["spans"] = spans_as_json(self.spans)
        return {name: value for name, value in found.items() if value is not None}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what travels as tensors: float32 or float16, int64 and boolean, C-contiguous."""
        spans = None if isinstance(self.spans, Mapping) else self.spans
        found = {
            "token_ids": _array(self.token_ids, "token_ids", np.int64, rank=1),
            "type_ids": _array(self.type_ids, "type_ids", np.int64, rank=1),
            "embeddings": _floats(self.embeddings, "embeddings"),
            "memory": _floats(self.memory, "memory"),
            "mask": _flags(self.mask),
            "spans": _array(spans, "spans", np.int64, rank=2),
        }
        return {name: array for name, array in found.items() if array is not None}


InputLike: TypeAlias = str | NDArray[Any] | Input
Inputs: TypeAlias = InputLike | Sequence[InputLike]
Arrays: TypeAlias = ArrayLike | Sequence[ArrayLike]


def as_inputs(inputs: Inputs) -> list[Input]:
    """Return one Input a sequence.

    A string is a text; an array of rank 2 embeddings, of rank 1 and integers token ids, of rank 3 a batch of
    embeddings. Raises TypeError or ValueError for anything else.
    """
    if isinstance(inputs, np.ndarray) and inputs.ndim == 3:
        return [Input(embeddings=one) for one in inputs]
    if isinstance(inputs, str | np.ndarray | Input):
        return [_as_input(inputs)]
    found = [_as_input(one) for one in inputs]
    if not found:
        raise ValueError("inputs is empty; give at least one sequence")
    return found


def as_qkv(tensors: Mapping[str, Arrays | None]) -> list[dict[str, NDArray[Any]]]:
    """Return one dictionary of arrays a sequence."""
    several = {
        name: list(value) if isinstance(value, list | tuple) and _is_list_of_arrays(value) else [value]
        for name, value in tensors.items()
        if value is not None
    }
    counts = {name: len(arrays) for name, arrays in several.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"query, key, value and mask must be as many; there are {counts}")
    return [
        {name: _number_array(arrays[place], name) for name, arrays in several.items()}
        for place in range(counts["query"])
    ]


def _is_list_of_arrays(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(one, np.ndarray) for one in value)


def _number_array(value: Any, name: str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers in rows of one length")
    if (name == "mask" and array.dtype.kind == "b") or array.dtype == np.float16:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array, dtype=np.float32)


def _as_input(one: InputLike) -> Input:
    if isinstance(one, Input):
        return one
    if isinstance(one, str):
        return Input(text=one)
    if not isinstance(one, np.ndarray):
        raise TypeError(f"a sequence must be a str, a numpy array or an Input, not {type(one).__name__}")
    if one.ndim == 2:
        return Input(embeddings=one)
    if one.ndim == 1 and one.dtype.kind in "iu":
        return Input(token_ids=one)
    raise ValueError(
        "an array must be embeddings [T, d_model] or integer token ids [T]; "
        f"it is {one.dtype} {list(one.shape)}"
    )


def _floats(value: ArrayLike | None, name: str) -> NDArray[Any] | None:
    if value is None:
        return None
    half = isinstance(value, np.ndarray) and value.dtype == np.float16
    return _array(value, name, np.float16 if half else np.float32, rank=2)


def _flags(value: ArrayLike | None) -> NDArray[Any] | None:
    """Return a mask of booleans, from booleans or from whole numbers 0 and 1, as tokenizers give them."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
        array = array == 1
    return _array(array, "mask", np.bool_, rank=None)


def _array(value: ArrayLike | None, name: str, dtype: type[Any], *, rank: int | None) -> NDArray[Any] | None:
    if value is None:
        return None
    array = np.asarray(value)
    if array.size and dtype is np.int64 and array.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold integers, not {array.dtype}")
    if array.size and dtype is np.bool_ and array.dtype.kind != "b":
        raise ValueError(
            f"{name} must be boolean, or 0 and 1, true where a key may be attended; it is {array.dtype}"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold numbers in rows of one length")
    if rank is not None and array.ndim != rank:
        raise ValueError(f"{name} must have {rank} axes; it has {array.ndim}")
    return np.ascontiguousarray(array, dtype=dtype)
