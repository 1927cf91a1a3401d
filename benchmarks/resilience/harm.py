"""Rows that are about requests out of proportion: bombs, and callers who are greedy for memory."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.resilience.figures import Figure
from tests.faults.bombs import ALL, Bomb, weights_of
from tests.faults.detonation import Damage, detonate
from tests.faults.greed import Answers, at_once, non_readers, unfinished_bodies
from tests.faults.limits import memory as memory_limit
from tests.faults.running import ROOT, Running, running
from tests.faults.strangers import TOKENIZER_TEXTS, TOKENIZERS, placed
from tests.faults.wire import Cut, attend

MI = 1 << 20
LIMIT = 3 << 30
GOOD = attend({"inputs": [{"text": "a b c"}]})
PATIENCE = 10.0  # seconds for one bomb
HEALTH_SECONDS = 0.25
MOST_GROWTH = 64 * MI  # beyond the bytes that were sent
HOLD_SECONDS = 5.0  # that greedy callers stay once all are there
FEWEST_BESIDE = 20  # answers of those who ask beside
TOLD = {"200", "taken", "413", "429", "503"}  # each refusal with its reason (`tests.faults.greed`)
SIDE = 5680  # weights and scores of so many queries and keys are 259 MB


def _text_bomb(model: str, text: str) -> Bomb:
    """Make a bomb of a short text to a stranger's tokenizer (404: it was not loaded)."""
    path = f"/v1/models/{model}/attend"
    return Bomb(
        f"{text[:3]}… to {model}",
        lambda: attend({"inputs": [{"text": text}]}, path=path),
        frozenset({404, 413, 422, 503, 504}),
    )


TOKENIZER_BOMBS = tuple(_text_bomb(model, text) for model, text in TOKENIZER_TEXTS.items())


def bombs(folder: Path, *, short: bool) -> Figure:
    """Every bomb, within a limit of memory, with 1 and 2 workers."""
    tried: list[tuple[str, Damage, str]] = []
    deaths = 0
    with memory_limit(LIMIT, "bombs") as limited, ExitStack() as after:
        repository = folder / "strangers"
        after.enter_context(placed(TOKENIZERS, ROOT / "repository" / "demo-attention", repository))
        kinds: list[tuple[tuple[Bomb, ...], dict[str, Any]]] = [
            (ALL[:: 4 if short else 1], {}),
            (TOKENIZER_BOMBS, {"repository": repository, "models": None}),
        ]
        for workers in (1, 2):
            for at, (chosen, options) in enumerate(kinds):
                settings = {"prefix": limited.prefix, "http_workers": workers, **options}
                more, died = _detonate_all(folder / f"bombs{workers}-{at}", chosen, settings)
                tried, deaths = tried + more, deaths + died
    bad = sum(bool(wrong) for _, _, wrong in tried)
    slowest = max(damage.worst_health_seconds for _, damage, _ in tried)
    growth = max(damage.grown_bytes for _, damage, _ in tried)
    return Figure(
        "bombs",
        "every shape, count or text bomb of F1, F6, F15 and 40 more: refused, 1 and 2 workers; /health "
        "within 250 ms; memory grows by under 64 MiB",
        f"{len(tried)} bombs, {len(tried) - bad} as promised, {deaths} deaths; slowest /health "
        f"{slowest * 1e3:.0f} ms, most growth beyond what was sent {growth // MI} MiB (by {limited.by})",
        met=not bad and not deaths,
        short=short,
    )


def _detonate_all(
    folder: Path, bombs: Sequence[Bomb], settings: dict[str, Any]
) -> tuple[list[tuple[str, Damage, str]], int]:
    """Detonate one after another; a server that was hurt is started anew. Returns how many died, too."""
    tried: list[tuple[str, Damage, str]] = []
    deaths = 0
    left = list(bombs)
    while left:
        with running(folder / str(len(left)), **settings) as server:
            hurt = False
            server.ask(GOOD)  # the first request loads what is loaded once
            while left and not hurt:
                bomb = left.pop(0)
                damage = detonate(server, bomb, timeout=PATIENCE)
                wrong = _wrong(bomb, damage)
                tried.append((bomb.name, damage, wrong))
                if wrong:
                    print(f"  {settings['http_workers']} workers, {bomb.name}: {wrong}", flush=True)
                hurt = damage.status is None or not server.alive
            deaths += not server.alive
    return tried, deaths


def _wrong(bomb: Bomb, damage: Damage) -> str:
    """Say what is not as promised; nothing where all is."""
    said = []
    if damage.status not in bomb.right:
        said.append(f"answered {damage.status}")
    if damage.grown_bytes >= MOST_GROWTH:
        said.append(f"+{damage.grown_bytes // MI} MiB")
    if damage.worst_health_seconds >= HEALTH_SECONDS or damage.unhealthy:
        said.append(f"/health {damage.worst_health_seconds * 1e3:.0f} ms, {damage.unhealthy} times not well")
    return ", ".join(said)


class Bystander:
    """Asks a short question again and again beside, and counts what it is told."""

    def __init__(self, server: Running) -> None:
        self.answers: Counter[str] = Counter()
        self.slowest = 0.0
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
            started = time.monotonic()
            try:
                self.answers[str(self._server.ask(GOOD, 20).status)] += 1
            except (OSError, Cut) as problem:
                self.answers[type(problem).__name__] += 1
            self.slowest = max(self.slowest, time.monotonic() - started)
            self._over.wait(0.05)


def memory(folder: Path, *, short: bool) -> Figure:
    """Greedy callers against a server of 3 GiB, each kind against one of its own."""
    many, few = (16, 4) if short else (64, 16)
    large = weights_of(SIDE)
    json_form = weights_of(SIDE, form="application/json")

    @contextmanager
    def readers(port: int) -> Iterator[Answers]:
        yield at_once(port, json_form, few)

    kinds: dict[str, tuple[int, Callable[[int], AbstractContextManager[Answers]]]] = {
        "do not read": (many, lambda port: non_readers(port, large, many)),
        "unfinished bodies": (many, lambda port: unfinished_bodies(port, 60 * MI, many)),
        "JSON readers": (few, readers),
    }
    said, met, by = [], True, ""
    for name, (count, greedy) in kinds.items():
        with (
            memory_limit(LIMIT, "memory") as limited,
            running(folder / name.replace(" ", "-"), prefix=limited.prefix) as server,
        ):
            by = limited.by
            with Bystander(server) as beside, greedy(server.port) as answers:
                time.sleep(HOLD_SECONDS)
                told = dict(answers)
            peak = server.memory("VmHWM")
            whole = (
                server.alive
                and server.healthy()
                and peak <= LIMIT
                and sum(told.values()) == count
                and set(told) <= TOLD
                and set(beside.answers) == {"200"}
                and beside.answers.total() >= FEWEST_BESIDE
            )
            met = met and whole
            line = f"{name}: {told}, peak {peak // MI} MiB, {'alive' if server.alive else 'DEAD'}, beside "
            line += f"{dict(beside.answers)}, at most {beside.slowest:.1f} s"
            print(f"  {line}", flush=True)
            said.append(line)
    return Figure(
        "memory",
        "3 GiB: 64 who ask for 259 MB and do not read, 64 unfinished bodies of 60 MiB, 16 JSON readers "
        "of 259 MB at once: alive throughout; others served; refusals say why",
        f"{'; '.join(said)} (by {by})",
        met=met,
        short=short,
    )
