import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from models.outputs import Selection
from models.protocol import QKV, Answer, BatchResult, Failure, Item, ModelCard, PooledCard, Text, Tokens
from models.spec import AttentionSpec
from service.processes.parcel import KEPT_BYTES, Arena, pack, unpack
from tests.fakes import fake_card

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def ends() -> Iterator[tuple[Arena, Arena]]:
    """The two ends of one shared memory: who writes, and who reads."""
    fd = os.memfd_create("test")
    yield Arena(fd), Arena(fd)
    os.close(fd)


def crossed(value: Any, ends: tuple[Arena, Arena]) -> Any:
    """Send a value through JSON and shared memory."""
    writer, reader = ends
    sent = orjson.dumps(pack(value, put=writer.put, number=lambda card: 7))
    return unpack(orjson.loads(sent), get=reader.look, card=lambda number: CARDS[number])


CARDS = {7: fake_card("numbered")}
CHOSEN = Selection(outputs=("z", "weights"), layers=(0, 1), heads=(1,), rows=(0, 2), spans=((0, 1), (1, 3)))


def same(one: Any, other: Any) -> bool:
    """Equal in type, shape and every bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return bool(one == other)


@pytest.mark.parametrize(
    "value",
    [
        Item(card=CARDS[7], input=Tokens(embeddings=X, mask=np.array([True, False, True])), selection=CHOSEN),
        Item(card=CARDS[7], input=Tokens(ids=np.array([1, 2**40])), selection=CHOSEN, deterministic=True),
        Item(
            card=None,
            input=QKV(
                query=X[None],
                key=X[None],
                value=X[None],
                mask=np.full((3, 3), -np.inf, dtype=np.float32),
                rule=AttentionSpec(causal=True, softcap=5.5, left_window=3),
                head_axis=False,
            ),
            selection=replace(CHOSEN, rows=None, heads=None),
        ),
        Answer(tensors={"z": X, "top_k_keys": np.zeros((2, 0), dtype=np.int32), "n": X.astype(np.float16)}),
        Failure(code="not_finite", message="überlaufen"),
    ],
)
def test_value_arrives_as_it_was(value: Any, ends: tuple[Arena, Arena]) -> None:
    assert same(value, crossed(value, ends))


def test_result_of_a_batch_keeps_the_order_of_answers_and_failures(ends: tuple[Arena, Arena]) -> None:
    answers = [Answer(tensors={"z": X + n}) for n in range(3)]
    answers.insert(1, Failure(code="invalid", message="no"))  # type: ignore[arg-type]
    arrived = crossed(BatchResult(answers=answers, computed_tokens=9), ends)  # type: ignore[arg-type]
    assert arrived.computed_tokens == 9
    assert all(same(*pair) for pair in zip(answers, arrived.answers, strict=True))


def test_cards_and_texts_arrive_without_what_means_nothing_elsewhere() -> None:
    def written(array: Any) -> list[Any]:
        return [array.dtype.str, array.tolist()]

    def read(place: list[Any]) -> Any:
        return np.array(place[1], dtype=place[0])

    text = Text(
        ids=np.array([1, 2]),
        type_ids=np.array([0, 0]),
        tokens=("a", "b"),
        offsets=((0, 1), (2, 3)),
        special=(False, True),
    )
    about = PooledCard(width=3, pooling="mean", normalized=True, prompts={"query": "q: "}, dimensions=(2, 3))
    card = replace(
        fake_card(pooled=about, notes=("a note",), not_offered={"text": "why"}),
        handle=object(),
        spec={"windows": [None, 4], "array": {"kind": "x"}},
    )
    for value in (text, card):
        sent = orjson.loads(orjson.dumps(pack(value, put=written)))
        arrived = unpack(sent, get=read)
        if isinstance(value, ModelCard):
            assert arrived.handle is None
            assert orjson.dumps(arrived.spec) == orjson.dumps(value.spec)
            value = replace(value, handle=None, spec=arrived.spec)
        assert same(value, arrived)


def test_memory_grows_under_what_is_already_there(ends: tuple[Arena, Arena]) -> None:
    writer, reader = ends
    small = writer.put(X)
    seen = reader.look(small)
    large = np.arange(1 << 20, dtype=np.float64)
    place = writer.put(large)
    assert np.array_equal(reader.look(place), large)
    assert np.array_equal(seen, X)
    assert np.array_equal(reader.look(small), X)


def test_inner_batch_does_not_write_over_the_outer_one(ends: tuple[Arena, Arena]) -> None:
    writer, reader = ends
    outer = writer.put(X)
    top = writer.top
    inner = writer.put(X + 1)
    assert np.array_equal(reader.look(inner), X + 1)
    writer.rewind(top)
    writer.put(X + 2)
    assert np.array_equal(reader.look(outer), X)


@pytest.mark.parametrize("who", ["writer", "reader"])
def test_memory_of_a_huge_batch_goes_back_to_the_system_when_it_has_been_read(who: str) -> None:
    fd = os.memfd_create("test")
    ends = {"writer": Arena(fd), "reader": Arena(fd)}
    place = ends["writer"].put(np.ones(KEPT_BYTES + (8 << 20), dtype=np.uint8))
    held = os.fstat(fd).st_blocks * 512
    ends["writer"].rewind(0)
    assert ends["reader"].look(place).all()
    ends[who].trim()
    kept = os.fstat(fd).st_blocks * 512
    assert held >= KEPT_BYTES + (8 << 20)
    assert kept <= KEPT_BYTES
    again = ends["writer"].put(np.full(KEPT_BYTES + (9 << 20), 2, dtype=np.uint8))
    assert (ends["reader"].look(again) == 2).all()
    os.close(fd)
