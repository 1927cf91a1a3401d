"""Nothing is computed for a caller who has left or whose deadline has passed."""

import asyncio

import pytest

from tests.e2e.conftest import FakeServer
from tests.e2e.conftest import Start as StartFake
from tests.faults.leavers import leave_while_waiting, miss_deadlines

COUNT = 100
BATCH_SECONDS = 1.5


@pytest.fixture
def busy(start_fake: StartFake) -> FakeServer:
    return start_fake(batch_seconds=BATCH_SECONDS)


def test_callers_who_left_are_not_computed_for(busy: FakeServer) -> None:
    assert asyncio.run(leave_while_waiting(busy.port, COUNT, pipelined=False)).executed == 0


def test_callers_who_left_with_a_second_request_behind_are_not_computed_for_and_no_error(
    busy: FakeServer,
) -> None:
    assert asyncio.run(leave_while_waiting(busy.port, COUNT, pipelined=True)).executed == 0
    assert busy.stop() == 0
    assert [line for line in busy.log if line["level"] == "error"] == []


def test_requests_whose_deadline_passed_are_not_computed(busy: FakeServer) -> None:
    waited = asyncio.run(miss_deadlines(busy.port, COUNT))
    assert set(waited.answers) <= {429, 504}
    assert waited.answers.total() == COUNT
    assert waited.executed == 0
