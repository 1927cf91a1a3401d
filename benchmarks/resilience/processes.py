"""The row about deaths and freezes of every process, and of the device's thread."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.resilience.fake import fake_server
from benchmarks.resilience.figures import Figure
from tests.faults.deaths import Aftermath, left_behind, strike, strike_thread
from tests.faults.leavers import FAKE_ATTEND
from tests.faults.running import running
from tests.faults.wire import attend

STRIKES = (
    ("worker", signal.SIGKILL),
    ("device", signal.SIGKILL),
    ("worker", signal.SIGSEGV),
    ("device", signal.SIGABRT),
    ("worker", signal.SIGSTOP),
    ("device", signal.SIGSTOP),
)
RED_SECONDS = {"death": 0.2, "freeze": 10.0}
PATIENCE = 45.0  # three times WATCHDOG_SECONDS, after which what is frozen ends, and more
THREAD = attend({"inputs": [{"token_ids": [1, 2]}]}, path=FAKE_ATTEND)

Struck = tuple[str, str, Aftermath, list[str]]  # what was done, death or freeze, what followed, what is left


def deaths(folder: Path, *, short: bool) -> Figure:
    """Kill and freeze each process and the device's thread, on servers as they are by default."""
    bad: Counter[str] = Counter()
    counted, slowest = 0, {"death": 0.0, "freeze": 0.0}
    for at in range(1 if short else 5):
        for what, kind, aftermath, left in _round(folder / str(at)):
            counted += 1
            red = aftermath.red_seconds
            slowest[kind] = max(slowest[kind], red if red is not None else 999.0)
            in_time = red is not None and red <= RED_SECONDS[kind]
            good = in_time and aftermath.status not in (0, None) and not aftermath.survivors and not left
            bad[what] += not good
            print(f"  {what}: {aftermath}, left {left}{'' if good else '  NOT AS PROMISED'}", flush=True)
    return Figure(
        "deaths",
        "deaths and freezes of each process and of the device's thread: all red within 10 s (0.2 s for "
        "deaths), status ≠ 0, 0 orphans, nothing left in shared memory or temporary folders",
        f"{counted} strikes, not as promised: {dict(+bad) or 0}; slowest red: death "
        f"{slowest['death']:.2f} s, freeze {slowest['freeze']:.1f} s; what a killed first process left went "
        "with the next start",
        met=not +bad,
        short=short,
    )


def _round(folder: Path) -> Iterator[Struck]:
    for victim, number in STRIKES:
        here = folder / f"{victim}-{number.name}"
        with running(here, http_workers=2) as server:
            aftermath = strike(server, victim, number, patience=PATIENCE)
        left = left_behind(server)
        if victim == "device" and left:  # the next start sweeps what a killed first process left
            with running(here, http_workers=2, port=server.port) as following:
                following.stop()
            left = left_behind(server)
        yield (
            f"{number.name} of the {victim}",
            "freeze" if number == signal.SIGSTOP else "death",
            aftermath,
            left,
        )
    for workers in (1, 2):
        for kind, plan in (("death", {"fail_after": 0}), ("freeze", {"hang_after": 0})):
            settings = {"http_workers": workers}
            with fake_server(folder / f"thread-{kind}-{workers}", settings=settings, **plan) as server:
                aftermath = strike_thread(server, THREAD, patience=PATIENCE)
            yield f"{kind} of the device's thread, {workers} workers", kind, aftermath, left_behind(server)
