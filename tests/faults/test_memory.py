"""One budget of memory for all callers: what would pass it is refused, and others are served."""

import pytest

from tests.faults.bombs import weights_of
from tests.faults.conftest import Start
from tests.faults.greed import at_once, non_readers, unfinished_bodies
from tests.faults.running import Running
from tests.faults.wire import attend

MI = 1 << 20
BUDGET = 256 * MI
BESIDE = 192 * MI  # what one computation takes beside what it returns, and what an allocator keeps
SIDE = 2000  # an answer of 32 MB, and of about 70 MB in JSON
GOOD = attend({"inputs": [{"text": "a b c"}]})
REFUSALS = {"413", "429", "503"}


@pytest.fixture
def server(start: Start) -> Running:
    server = start(max_memory_bytes=BUDGET)
    assert server.ask(GOOD).status == 200
    server.forget_peak()
    return server


def test_callers_who_do_not_read_are_refused_beyond_the_budget(server: Running) -> None:
    before = server.memory()
    with non_readers(server.port, weights_of(SIDE), 24) as answers:
        assert server.ask(GOOD).status == 200
    assert set(answers) <= {"200", *REFUSALS}
    assert answers["200"] < 24
    assert server.memory("VmHWM") - before < BUDGET + BESIDE


def test_bodies_without_an_end_are_refused_beyond_the_budget(server: Running) -> None:
    before = server.memory()
    with unfinished_bodies(server.port, 30 * MI, 24) as answers:
        assert server.ask(GOOD).status == 200
    assert answers["taken"] < 24
    assert set(answers) <= {"taken", "closed", *REFUSALS}
    assert server.memory("VmHWM") - before < BUDGET + BESIDE


def test_large_replies_of_json_stay_within_the_budget(server: Running) -> None:
    before = server.memory()
    answers = at_once(server.port, weights_of(SIDE, form="application/json"), 8)
    assert set(answers) <= {"200", *REFUSALS}
    assert answers["200"] >= 1
    assert server.ask(GOOD).status == 200
    assert server.memory("VmHWM") - before < BUDGET + BESIDE
