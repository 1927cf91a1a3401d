"""What tests of slots wait for."""

from service.processes.slots import Slots


def wait_for_waiters(slots: Slots, count: int) -> None:
    """Return once exactly `count` batches wait for a slot; fail after twenty seconds."""
    with slots._changed:
        assert slots._changed.wait_for(lambda: len(slots._waiting) == count, 20)
