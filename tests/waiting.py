"""Waiting for what another thread or process does: bounded, and a failure says for what."""

import time
from collections.abc import Callable

import pytest

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.002


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = WAIT_SECONDS) -> None:
    """Return once `condition` holds; fail with `what` when it has not within `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            pytest.fail(f"after {seconds} s not yet: {what}")
        time.sleep(POLL_SECONDS)
