"""A reply in pieces is the reply whole, and no piece is large."""

import base64
from typing import Any

import numpy as np
import orjson
import pytest

from service.wire import json_text
from service.wire.compiled import native
from service.wire.json_text import PIECE_BYTES, PIECE_NUMBERS, Base64, dumps, pieces

LARGEST_PIECE = 2 * PIECE_BYTES + 1024


def numbers(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).standard_normal(shape) * 50).astype(dtype)


@pytest.fixture(params=["compiled", "without"])
def _both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        for module in (json_text, native):
            monkeypatch.setattr(module, "native", lambda: None)


@pytest.mark.usefixtures("_both")
@pytest.mark.parametrize(
    "array",
    [
        numbers(3),
        numbers(5 * PIECE_NUMBERS + 7),
        numbers(2 * PIECE_NUMBERS, 1),
        numbers(300, 300),
        numbers(2, 3, 4 * PIECE_NUMBERS + 1),
        numbers(4, 5, 100, 101),
        numbers(2, 0, 3),
        numbers(70, 1000, dtype=np.float16),
        numbers(70, 1000, dtype=np.int32),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_pieces_are_the_text_whole(array: np.ndarray[Any, Any]) -> None:
    body = {"before": [1, "ä"], "outputs": [{"z": array}, {"weights": array}], "after": None}
    made = list(pieces(body))
    assert b"".join(made) == bytes(dumps(body))
    assert max(map(len, made)) <= LARGEST_PIECE


def test_masked_scores_are_null_in_pieces_too() -> None:
    scores = numbers(300, 300)
    scores[:, 7] = -np.inf
    read = orjson.loads(b"".join(pieces({"scores": scores})))["scores"]
    assert {row[7] for row in read} == {None}
    assert np.array_equal(np.array(read, dtype=np.float32)[:, :7], scores[:, :7])


def test_a_text_of_the_callers_that_looks_like_a_mark_is_no_mark() -> None:
    text = "\u241ftensor\u241f" + "0" * 32
    made = b"".join(pieces({"id": text, "z": numbers(200, 200)}))
    assert orjson.loads(made)["id"] == text


def test_base64_is_written_the_same_way_in_pieces_and_whole() -> None:
    vectors = [numbers(384, seed=seed) for seed in range(400)]
    body = {"data": [{"index": place, "embedding": Base64(one)} for place, one in enumerate(vectors)]}
    made = list(pieces(body))
    assert b"".join(made) == bytes(dumps(body))
    assert max(map(len, made)) <= LARGEST_PIECE
    last = orjson.loads(b"".join(made))["data"][-1]["embedding"]
    assert np.array_equal(np.frombuffer(base64.b64decode(last), "<f4"), vectors[-1])


def test_a_piece_is_made_when_it_is_asked_for() -> None:
    array = numbers(4 * PIECE_NUMBERS)
    made = pieces({"z": array})
    next(made)
    array[:] = 0
    assert b"".join(made).endswith(b",0.0,0.0]}")
