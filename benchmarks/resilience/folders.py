"""The row about strangers' model folders."""

import json
from pathlib import Path

from benchmarks.resilience.figures import Figure
from tests.faults.running import ROOT, Running, StartFailed, running
from tests.faults.strangers import TOKENIZER_TEXTS, TOKENIZERS, canary, many_strangers, placed
from tests.faults.wire import Cut, attend, post

PROMISED = "strangers' folders, 180 kinds: the good ones are served, each other has a reason, nothing runs"
FEWEST = 180
GOOD = ("aaa-good", "zzz-good")
TOLD = frozenset({200, 404, 413, 422, 503, 504})  # to a text for a stranger; not 500


def strangers(folder: Path, *, short: bool) -> Figure:
    """All but hostile tokenizers in one repository between two good ones; those in one of their own."""
    calm = [one for one in many_strangers() if one not in TOKENIZERS][:: 4 if short else 1]
    bad: list[str] = []
    loaded = 0
    for name, chosen, seconds in (("folders", tuple(calm), 20.0), ("tokenizers", TOKENIZERS, 40.0)):
        at = folder / name / "repository"
        with placed(chosen, ROOT / "repository" / "demo-attention", at) as names:
            try:
                with running(folder / name, repository=at, models=None, admin="true") as server:
                    wrong, served = _wrong(server, names, seconds)
                    bad, loaded = bad + wrong, loaded + served
                    if server.stop(45) != 0:
                        bad.append(f"the server of {name} ended with {server.process.returncode}")
            except StartFailed as problem:
                bad.append(f"the server of {name} did not start: {str(problem)[:100]}")
            if canary(at / "any").exists():
                bad.append(f"something in {name} ran")
    for one in bad:
        print(f"  {one}", flush=True)
    kinds = len(calm) + len(TOKENIZERS)
    reached = f"{kinds} kinds: {loaded} served all the same, {kinds - loaded} refused; not as promised: "
    reached += f"{len(bad)} {bad[:3] or ''}".strip()
    return Figure("strangers", PROMISED, reached, met=not bad and (short or kinds >= FEWEST), short=short)


def _wrong(server: Running, names: list[str], seconds: float) -> tuple[list[str], int]:
    """Return what is not as promised of these strangers, in words, and how many are served."""
    bad: list[str] = []
    for name in names:  # asked for by name, too: its reason must not be that nobody looked
        path = f"/v2/repository/models/{name}/load"
        status = _status(server, post(path, b"{}"), 60)
        if status not in (200, 400, 404, 422, 503):
            bad.append(f"{name}: load was answered with {status}")
    rows = {row["name"]: row for row in json.loads(server.ask(post("/v2/repository/index", b"{}"), 120).body)}
    ready = 0
    for name in names:
        row = rows.get(name, {})
        ready += row.get("state") == "READY"
        if row.get("state") != "READY" and not row.get("reason"):
            bad.append(f"{name}: no reason")
        text = TOKENIZER_TEXTS.get(name, "a")
        raw = attend({"inputs": [{"text": text}], "deadline_ms": 5000}, path=f"/v1/models/{name}/attend")
        status = _status(server, raw, seconds)
        if status not in TOLD:
            bad.append(f"{name}: a text was answered with {status}")
    for name in GOOD:
        status = _status(server, attend({"inputs": [{"text": "a"}]}, path=f"/v1/models/{name}/attend"), 20)
        if status != 200:
            bad.append(f"{name}, which is good, answers {status}")
    return bad, ready


def _status(server: Running, raw: bytes, seconds: float) -> int | str:
    try:
        return server.ask(raw, seconds).status
    except (OSError, Cut) as problem:
        return type(problem).__name__
