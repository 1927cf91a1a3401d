"""Rows that are about harm: bombs, memory, deaths and freezes, folders of strangers."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.resilience.figures import Figure
from tests.faults.bombs import ALL, weights_of
from tests.faults.deaths import left_behind, strike
from tests.faults.detonation import detonate
from tests.faults.greed import Answers, at_once, non_readers, unfinished_bodies
from tests.faults.limits import memory as memory_limit
from tests.faults.running import ROOT, Running, StartFailed, running
from tests.faults.strangers import TOKENIZERS, canary, many_strangers, placed
from tests.faults.wire import Cut, attend, post

__all__ = ["bombs", "deaths", "memory", "strangers"]

MI = 1 << 20
LIMIT = 3 << 30
GOOD = attend({"inputs": [{"text": "a b c"}]})
PATIENCE = 10.0  # seconds for one bomb


def bombs(folder: Path, *, short: bool) -> Figure:
    """Every bomb against one server in a limit of memory; a server that was hurt is started anew."""
    left = list(ALL[:: 4 if short else 1])
    count, bad, deaths, number = len(left), [], 0, 0
    with memory_limit(LIMIT, "bombs") as limited:
        while left:
            number += 1
            with running(folder / f"bombs{number}", prefix=limited.prefix) as server:
                hurt = False
                while left and not hurt:
                    bomb = left.pop(0)
                    damage = detonate(server, bomb, timeout=PATIENCE)
                    hurt = damage.status is None or not server.alive
                    deaths += not server.alive
                    slow = damage.worst_health_seconds >= 0.25
                    if damage.status not in bomb.right or damage.grown_bytes >= 64 * MI or slow:
                        bad.append(bomb.name)
                        print(
                            f"  {bomb.name}: {damage.status}, +{damage.grown_bytes // MI} MiB, "
                            f"/health {damage.worst_health_seconds * 1e3:.0f} ms",
                            flush=True,
                        )
    return Figure(
        "bombs",
        "every bomb of shapes, counts and texts refused; /health within 250 ms; memory grows under 64 MiB",
        f"{count} bombs, {count - len(bad)} as promised, {deaths} deaths ({limited.by})",
        met=not bad,
        short=short,
    )


class Bystander:
    """Asks a short question again and again beside, and counts what it is told."""

    def __init__(self, server: Running) -> None:
        self.answers: Counter[str] = Counter()
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Bystander":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                self.answers[str(self._server.ask(GOOD, 20).status)] += 1
            except (OSError, Cut) as problem:
                self.answers[type(problem).__name__] += 1
            self._over.wait(0.05)


def memory(folder: Path, *, short: bool) -> Figure:
    """Greedy callers against a server of 3 GiB, each kind against one of its own."""
    many, few = (16, 4) if short else (64, 16)
    large = weights_of(5680)
    json_form = weights_of(5680, form="application/json")

    @contextmanager
    def readers(port: int) -> Iterator[Answers]:
        yield at_once(port, json_form, few)

    kinds: dict[str, Callable[[int], object]] = {
        "do not read": lambda port: non_readers(port, large, many),
        "unfinished bodies": lambda port: unfinished_bodies(port, 60 * MI, many),
        "JSON readers": readers,
    }
    told, alive = [], True
    served: Counter[str] = Counter()
    by = ""
    for name, greedy in kinds.items():
        with (
            memory_limit(LIMIT, "memory") as limited,
            running(folder / name.replace(" ", "-"), prefix=limited.prefix) as server,
        ):
            by = limited.by
            with Bystander(server) as beside, greedy(server.port) as answers:  # type: ignore[attr-defined]
                told.append(f"{name} {dict(answers)}")
            served += beside.answers
            peak = server.memory("VmHWM") // MI
            said = f"{dict(answers)}, alive {server.alive}, peak {peak} MiB, beside {dict(beside.answers)}"
            print(f"  {name}: {said}", flush=True)
            alive = alive and server.alive
    return Figure(
        "memory",
        "3 GiB: 64 who ask for 259 MB and do not read, 64 unfinished bodies of 60 MiB, 16 JSON readers: "
        "alive, others served, refusals say why",
        f"alive {alive}; {'; '.join(told)}; beside {dict(served)} (by {by})",
        met=alive and set(served) == {"200"} and not any("closed" in one for one in told),
        short=short,
    )


def deaths(folder: Path, *, short: bool) -> Figure:
    """Kill and freeze each process."""
    rounds = 1 if short else 5
    strikes = [("worker", signal.SIGKILL), ("device", signal.SIGKILL), ("worker", signal.SIGSEGV)]
    strikes += [("device", signal.SIGABRT), ("worker", signal.SIGSTOP), ("device", signal.SIGSTOP)]
    bad, counted, slowest = [], 0, {"death": 0.0, "freeze": 0.0}
    for at in range(rounds):
        for victim, number in strikes:
            counted += 1
            here = folder / f"deaths{at}-{victim}-{number.name}"
            with running(here, http_workers=2) as server:
                aftermath = strike(server, victim, number, patience=45)
            frozen = number == signal.SIGSTOP
            kind = "freeze" if frozen else "death"
            red = aftermath.red_seconds
            slowest[kind] = max(slowest[kind], red if red is not None else 999.0)
            left = left_behind(server)
            if victim == "device" and left:  # the next start sweeps what a killed first process left
                with running(here, http_workers=2, port=server.port) as following:
                    following.stop()
                left = left_behind(server)
            in_time = red is not None and red <= (10.0 if frozen else 0.2)
            if not in_time or aftermath.status in (0, None) or aftermath.survivors or left:
                bad.append(f"{number.name} of the {victim}")
            print(f"  {number.name} {victim}: {aftermath}, left {left}", flush=True)
    return Figure(
        "deaths",
        "deaths and freezes of each process: all red within 10 s (0.2 s for deaths), status ≠ 0, 0 orphans, "
        "nothing left",
        f"{counted} strikes, not as promised: {dict(Counter(bad)) or 0}; slowest red: death "
        f"{slowest['death']:.2f} s, freeze {slowest['freeze']:.1f} s",
        met=not bad,
        short=short,
    )


def strangers(folder: Path, *, short: bool) -> Figure:
    """Serve a repository of strangers' folders between two good ones."""
    chosen = [one for one in many_strangers() if one not in TOKENIZERS][:: 4 if short else 1]
    at = folder / "strangers" / "repository"
    with placed(tuple(chosen), ROOT / "repository" / "demo-attention", at) as names:
        try:
            with running(folder / "strangers", repository=at, models=None, admin="true") as server:
                rows = json.loads(server.ask(post("/v2/repository/index", b"{}"), 120).body)
                listed = {row["name"]: row for row in rows}
                unexplained = [
                    name
                    for name in names
                    if name not in listed
                    or (listed[name]["state"] != "READY" and not listed[name].get("reason"))
                ]
                good = [
                    server.ask(attend({"inputs": [{"text": "a"}]}, path=f"/v1/models/{name}/attend")).status
                    for name in ("aaa-good", "zzz-good")
                ]
                ran = canary(at / "any").exists()
        except StartFailed as problem:
            reached = f"{len(chosen)} kinds: the server did not start: {str(problem)[:100]}"
            return Figure("strangers", _STRANGERS, reached, met=False, short=short)
    print(f"  without a reason: {unexplained}")
    reached = f"{len(chosen)} kinds, {len(unexplained)} without a reason, good ones answer {good}, ran: {ran}"
    met = not unexplained and good == [200, 200] and not ran
    return Figure("strangers", _STRANGERS, reached, met=met, short=short)


_STRANGERS = "strangers' folders, 180 kinds: the good ones are served, each other has a reason, nothing runs"
