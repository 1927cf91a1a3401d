"""Servers that faults are done to; each ends with the test or the module that started it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import start as start_fake  # noqa: F401  a fixture
from tests.faults.running import Running, running

Start = Callable[..., Running]


class Target:
    """A server for many tests, started again where the test before has hurt it."""

    def __init__(self, start: Start, **options: object) -> None:
        self._start = start
        self._options = options
        self._server: Running | None = None
        self.hurt = False

    def server(self) -> Running:
        """The one there is, unless it was hurt."""
        if self._server is not None and (self.hurt or not self._server.alive):
            self._server.end()
            self._server = None
        if self._server is None:
            self._server = self._start(**self._options)
            self.hurt = False
        return self._server


@pytest.fixture
def start(tmp_path: Path, repository: Path) -> Iterator[Start]:
    """Start servers of the demo model, each in a folder of its own; all end with the test."""
    with ExitStack() as servers:
        yield _starter(servers, tmp_path, repository)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Start]:
    """The same for servers that a whole module shares."""
    with ExitStack() as servers:
        yield _starter(servers, tmp_path_factory.mktemp("servers"), repository)


def _starter(servers: ExitStack, folder: Path, repository: Path) -> Start:
    number = iter(range(1000))

    def start(**options: object) -> Running:
        server: AbstractContextManager[Running] = running(
            folder / str(next(number)),
            **{"repository": repository, **options},  # type: ignore[arg-type]
        )
        return servers.enter_context(server)

    return start
