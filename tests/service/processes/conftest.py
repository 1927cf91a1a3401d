from collections.abc import Callable, Iterator

import pytest

from service.batching.limits import Limits
from tests.fakes import FakeRuntime
from tests.service.processes.served import Served


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts devices; each is stopped when the test ends."""
    started: list[Served] = []

    def serve(runtime: FakeRuntime | None = None, count: int = 1, limits: Limits | None = None) -> Served:
        started.append(Served(runtime, count, limits))
        return started[-1]

    yield serve
    for one in started:
        one.close()
