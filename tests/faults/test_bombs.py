"""Shapes, counts and texts out of proportion: refused, at the cost of the bytes that were sent."""

import pytest

from tests.faults.bombs import ALL, FRESH, TEXTS, Bomb
from tests.faults.conftest import Start, Target
from tests.faults.detonation import detonate

MI = 1 << 20
MOST_GROWTH = 64 * MI  # beyond the bytes that were sent
# Processor time, not time: it says what was done, however busy the machine is. Reading 1 MiB takes a few ms.
CPU_SECONDS = 0.5
CPU_SECONDS_A_MIB = 0.02
PATIENCE = 5  # seconds, after which the caller goes and the server is started anew
MOST_TOKENS = 2**18
BY_NAME = {bomb.name: bomb for bomb in ALL}


@pytest.fixture(scope="module")
def target(start_once: Start) -> Target:
    return Target(start_once, max_queued_tokens=MOST_TOKENS)


@pytest.fixture(scope="module")
def several(start_once: Start) -> Target:
    """The same with two HTTP processes in front of the device's."""
    return Target(start_once, max_queued_tokens=MOST_TOKENS, http_workers=2)


@pytest.mark.parametrize("name", BY_NAME)
def test_bomb_is_refused_and_costs_what_its_bytes_cost(target: Target, name: str) -> None:
    refuse(target, BY_NAME[name])


@pytest.mark.parametrize("name", [bomb.name for bomb in TEXTS])
def test_text_bomb_is_refused_by_each_of_several_processes(several: Target, name: str) -> None:
    refuse(several, BY_NAME[name])


@pytest.mark.parametrize("name", [bomb.name for bomb in FRESH])
def test_bomb_costs_a_fresh_server_no_more(start: Start, name: str) -> None:
    (bomb,) = (bomb for bomb in FRESH if bomb.name == name)
    damage = detonate(start(), bomb, timeout=PATIENCE)
    assert damage.status in bomb.right
    assert damage.grown_bytes < MOST_GROWTH


def refuse(target: Target, bomb: Bomb) -> None:
    server = target.server()
    damage = detonate(server, bomb, timeout=PATIENCE)
    target.hurt = damage.status is None
    sent_mib = damage.body_bytes / MI
    assert damage.status in bomb.right
    assert damage.grown_bytes < MOST_GROWTH
    assert damage.cpu_seconds < CPU_SECONDS + CPU_SECONDS_A_MIB * sent_mib
    assert damage.unhealthy == 0
    assert server.healthy()


def test_there_are_as_many_bombs_as_are_promised() -> None:
    assert len(BY_NAME) == len(ALL) >= 43
