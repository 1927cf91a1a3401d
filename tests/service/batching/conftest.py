"""An engine on a device that can be held."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from models.protocol import Item
from service.batching.limits import Limits
from tests.queueing import Bench


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches, started; at the end each engine must stop."""
    made: list[Bench] = []

    def make(
        before_run: Callable[[Sequence[Item]], None] | None = None, *, start: bool = True, **limits: Any
    ) -> Bench:
        made.append(Bench(Limits(**limits), before_run))
        if start:
            made[-1].engine.start()
        return made[-1]

    yield make
    for one in made:
        one.release()
        assert one.engine.stop(10)
        assert one.engine.oldest_batch_seconds == 0
