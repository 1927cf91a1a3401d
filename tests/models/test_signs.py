"""What gives a sign of life, and when silence counts."""

import threading
from pathlib import Path

import numpy as np
import pytest

from models.device.signs import Signs
from models.outputs import Selection
from models.protocol import Item, Tokens
from models.runtime import TorchRuntime
from tests.fakes import running

ROOT = Path(__file__).parents[2]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_is_silent_where_nothing_runs(clock: Clock) -> None:
    signs = Signs(clock)
    clock.now = 100.0
    assert signs.silent_seconds == 0
    with running(signs):
        pass
    clock.now = 200.0
    assert signs.silent_seconds == 0


def test_beginning_and_every_sign_end_a_silence(clock: Clock) -> None:
    signs = Signs(clock)
    with running(signs) as give:
        clock.now = 7.0
        assert signs.silent_seconds == 7
        give()
        assert signs.silent_seconds == 0


def test_the_most_silent_batch_counts(clock: Clock) -> None:
    signs = Signs(clock)
    began, end = threading.Event(), threading.Event()

    def stuck() -> None:
        with running(signs):
            began.set()
            end.wait(20)

    thread = threading.Thread(target=stuck)
    thread.start()
    assert began.wait(20)
    clock.now = 5.0
    with running(signs):
        assert signs.silent_seconds == 5
    end.set()
    thread.join()
    assert signs.silent_seconds == 0


def test_a_batch_that_lets_others_go_first_is_not_silent_meanwhile(clock: Clock) -> None:
    signs = Signs(clock)

    def others() -> str:
        clock.now = 50.0
        with running(signs):
            clock.now = 53.0
            inside = signs.silent_seconds
        assert inside == 3
        assert signs.silent_seconds == 0
        clock.now = 60.0
        return "done"

    with running(signs):
        assert signs.outside(others) == "done"
        clock.now = 62.0
        assert signs.silent_seconds == 2


def test_a_batch_that_fails_is_over(clock: Clock) -> None:
    signs = Signs(clock)
    with pytest.raises(RuntimeError), running(signs):
        raise RuntimeError
    clock.now = 9.0
    assert signs.silent_seconds == 0


def test_the_runtime_gives_a_sign_at_every_layer_of_a_batch() -> None:
    runtime = TorchRuntime(ROOT / "repository", models=("demo-attention",), device="cpu", dtype="float32")
    card = runtime.card("demo-attention")
    signs = 0

    def clock() -> float:
        nonlocal signs
        signs += 1
        return float(signs)

    runtime._signs = Signs(clock)
    item = Item(card=card, input=Tokens(ids=np.array([1, 2, 3])), selection=Selection(outputs=("z",)))
    runtime.run([item])
    assert signs == 1 + card.layers
    runtime.run([item], pause=lambda: None)
    assert signs == 2 * (1 + card.layers)
    assert runtime.silent_seconds == 0
