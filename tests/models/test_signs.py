"""What gives a sign of life, and when silence counts."""

import threading
from pathlib import Path

import numpy as np
import pytest

from models.device.signs import Signs
from models.outputs import Selection
from models.protocol import Item, Tokens
from models.runtime import TorchRuntime

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
    with signs.running():
        pass
    clock.now = 200.0
    assert signs.silent_seconds == 0


def test_beginning_and_every_sign_end_a_silence(clock: Clock) -> None:
    signs = Signs(clock)
    with signs.running() as give:
        clock.now = 7.0
        assert signs.silent_seconds == 7
        give()
        assert signs.silent_seconds == 0


def test_the_most_silent_batch_counts(clock: Clock) -> None:
    signs = Signs(clock)
    began, end = threading.Event(), threading.Event()

    def stuck() -> None:
        with signs.running():
            began.set()
            end.wait(20)

    thread = threading.Thread(target=stuck)
    thread.start()
    assert began.wait(20)
    clock.now = 5.0
    with signs.running():
        assert signs.silent_seconds == 5
    end.set()
    thread.join()
    assert signs.silent_seconds == 0


def test_what_is_left_between_two_steps_is_not_silent(clock: Clock) -> None:
    signs = Signs(clock)
    with signs.running():
        clock.now = 3.0
        assert signs.silent_seconds == 3
    clock.now = 60.0
    assert signs.silent_seconds == 0
    with signs.running():
        clock.now = 62.0
        assert signs.silent_seconds == 2


def test_a_batch_that_fails_is_over(clock: Clock) -> None:
    signs = Signs(clock)
    with pytest.raises(RuntimeError), signs.running():
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
    for _ in runtime.steps([item]):
        assert runtime.silent_seconds == 0
    assert signs == 2 * (1 + card.layers)
    assert runtime.silent_seconds == 0
