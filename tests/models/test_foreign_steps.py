"""Work of another library in steps: left where it calls, gone on with, given up, and failed."""

import threading
from collections.abc import Callable

import pytest
import torch

from models.device.steps import Steps, finish
from models.pretrained.foreign_steps import foreign_steps


def counting(leave: Callable[[], None], upto: int = 3) -> list[int]:
    """Return what was done, leaving after each."""
    done = []
    for number in range(upto):
        done.append(number)
        leave()
    return done


def forwards() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "heed-forward"]


def test_steps_end_with_what_the_work_returns() -> None:
    steps = foreign_steps(counting)
    left: list[int] = []
    assert finish(steps, lambda: left.append(1)) == [0, 1, 2]
    assert len(left) == 3
    assert not forwards()


def test_work_waits_until_it_is_gone_on_with() -> None:
    done: list[int] = []

    def work(leave: Callable[[], None]) -> None:
        for number in range(2):
            done.append(number)
            leave()

    steps = foreign_steps(work)
    next(steps)
    assert done == [0]
    next(steps)
    assert done == [0, 1]
    finish(steps)


def test_steps_of_two_works_may_lie_between_each_other() -> None:
    outer, inner = foreign_steps(counting), []
    assert finish(outer, lambda: inner.append(finish(foreign_steps(counting)))) == [0, 1, 2]
    assert inner == [[0, 1, 2]] * 3


def test_what_the_work_raises_comes_out_of_the_step() -> None:
    def work(leave: Callable[[], None]) -> None:
        leave()
        raise LookupError("no such layer")

    steps: Steps[None] = foreign_steps(work)
    next(steps)
    with pytest.raises(LookupError, match="no such layer"):
        next(steps)
    assert not forwards()


def test_work_that_is_given_up_ends_where_it_was_left() -> None:
    ended = []

    def work(leave: Callable[[], None]) -> None:
        try:
            leave()
            ended.append("went on")
        finally:
            ended.append("let go")

    steps: Steps[None] = foreign_steps(work)
    next(steps)
    steps.close()
    assert ended == ["let go"]
    assert not forwards()


def test_work_computes_as_the_thread_that_drives_it() -> None:
    seen = []

    def work(leave: Callable[[], None]) -> None:
        seen.append((torch.is_inference_mode_enabled(), torch.get_num_threads()))
        leave()
        seen.append((torch.is_inference_mode_enabled(), torch.get_num_threads()))

    cores = torch.get_num_threads()
    try:
        with torch.inference_mode():
            torch.set_num_threads(2)
            steps: Steps[None] = foreign_steps(work)
            next(steps)
            torch.set_num_threads(1)
            finish(steps)
    finally:
        torch.set_num_threads(cores)
    assert seen == [(True, 2), (True, 1)]
