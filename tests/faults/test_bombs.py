"""Shapes, counts and texts out of proportion: refused, at the cost of the bytes that were sent."""

from collections.abc import Iterator

import pytest

from tests.faults.bombs import ALL, TEXTS, Bomb
from tests.faults.conftest import Start
from tests.faults.detonation import detonate
from tests.faults.running import Running
from tests.faults.unmended import cases

MI = 1 << 20
MOST_GROWTH = 64 * MI  # beyond the bytes that were sent
# Processor time, not time: it says what was done, however busy the machine is. Reading 1 MiB takes a few ms.
CPU_SECONDS = 0.5
CPU_SECONDS_A_MIB = 0.02
PATIENCE = 5  # seconds, after which the caller goes and the server is started anew
BY_NAME = {bomb.name: bomb for bomb in ALL}


class Target:
    """A server that is started again where the bomb before has hurt it."""

    def __init__(self, start: Start, *, workers: int = 1) -> None:
        self._start = start
        self._workers = workers
        self._server: Running | None = None
        self.hurt = False

    def server(self) -> Running:
        if self._server is not None and (self.hurt or not self._server.alive):
            self._server.end()
            self._server = None
        if self._server is None:
            self._server = self._start(max_queued_tokens=2**18, http_workers=self._workers)
            self.hurt = False
        return self._server


@pytest.fixture(scope="module")
def target(start_once: Start) -> Iterator[Target]:
    return Target(start_once)


@pytest.fixture(scope="module")
def several(start_once: Start) -> Iterator[Target]:
    """The same with two HTTP processes in front of the device's."""
    return Target(start_once, workers=2)


@pytest.mark.parametrize("name", cases(BY_NAME))
def test_bomb_is_refused_and_costs_what_its_bytes_cost(target: Target, name: str) -> None:
    refuse(target, BY_NAME[name])


@pytest.mark.parametrize("name", cases(bomb.name for bomb in TEXTS))
def test_text_bomb_is_refused_by_each_of_several_processes(several: Target, name: str) -> None:
    refuse(several, BY_NAME[name])


def refuse(target: Target, bomb: Bomb) -> None:
    server = target.server()
    damage = detonate(server, bomb, timeout=PATIENCE)
    target.hurt = damage.status is None
    sent_mib = damage.body_bytes / MI
    assert damage.status in bomb.right
    assert damage.grown_bytes < MOST_GROWTH
    assert damage.cpu_seconds < CPU_SECONDS + CPU_SECONDS_A_MIB * sent_mib
    assert server.healthy()


def test_there_are_as_many_bombs_as_are_promised() -> None:
    assert len(BY_NAME) == len(ALL) >= 43
