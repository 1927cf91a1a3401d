"""Real text through minilm below float32: Heed over HTTP in three dtypes, and compiled encoders in process.

onnxruntime, OpenVINO and CTranslate2 run in environments of their own, each with two threads and the batches
that were fastest in a short trial (`servers/text_encoder.py`); Heed serves 8 connections of 16 sentences a
request. All take turns. Errors are the largest of a pooled number, against float64.
"""

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.exact import Exact
from benchmarks.peers.environments import SERVERS, EnvironmentFailed, python_of
from benchmarks.peers.running import StartFailed, piped, post, resident_mb
from benchmarks.peers.sentences import LENGTHS, over_http, text_bodies
from benchmarks.serve import serving
from benchmarks.workload import SENTENCES, sentences

HEED = ("float32", "bfloat16", "int8")
ENCODERS = {
    "onnxruntime": ("float32", "int8"),
    "openvino": ("float32", "bfloat16"),
    "ctranslate2": ("float32", "int8"),
}
CONNECTIONS = 8
PATH = "/v1/embeddings"
CHECKED = 48  # texts whose error is measured
FOLDER = Path(__file__).parents[2] / "repository" / "minilm"


@dataclass(slots=True)
class Encoder:
    """One contestant: how to measure it, what it made of the first texts, and what was measured, by round."""

    who: str
    dtype: str
    measure: Callable[[float], float]  # seconds: sentences a second
    pooled: np.ndarray
    pid: int
    how: str
    weights_bytes: int | None = None  # as Heed's card says
    rates: list[float] = field(default_factory=list)
    error: float = 0.0

    @property
    def rate(self) -> float:
        """Sentences a second, the median of the rounds."""
        return statistics.median(self.rates)


@dataclass(frozen=True, slots=True)
class Target:
    """Heed in one dtype is to be at least so many times as fast as another; `least` by text set."""

    dtype: str
    than: tuple[str, str]
    least: tuple[float, float]


TARGETS = (
    Target("bfloat16", ("heed", "float32"), (1.7, 1.7)),
    Target("bfloat16", ("openvino", "bfloat16"), (0.95, 1.0)),
    Target("int8", ("heed", "float32"), (2.2, 2.2)),
    Target("int8", ("onnxruntime", "int8"), (1.0, 1.0)),
)
MOST_ERROR = {"bfloat16": 1.2e-3, "int8": 8e-3}
MOST_WEIGHTS = {"bfloat16": 0.5, "int8": 0.3}  # of float32's bytes, to two digits: biases and norms stay so


@contextmanager
def heed(dtype: str, texts: list[str]) -> Iterator[Encoder]:
    """Serve minilm in one dtype; yield it."""
    repository = FOLDER.parent
    with serving("--models", f"minilm:{dtype}", "--truncate", repository=repository) as (url, pid):
        load = over_http(url, PATH, text_bodies(PATH, texts))
        with urllib.request.urlopen(f"{url}/v1/models/minilm", timeout=30) as reply:
            card = json.loads(reply.read())

        def measure(seconds: float) -> float:
            found = load(CONNECTIONS, seconds)
            if found.errors:
                raise StartFailed(f"{found.errors} requests were refused")
            return SENTENCES * found.requests_per_second

        rows = []
        for at in range(0, CHECKED, SENTENCES):
            body = json.dumps({"model": "minilm", "input": texts[at : at + SENTENCES]}).encode()
            reply_rows = json.loads(post(url + PATH, "application/json", body, {}))["data"]
            rows += [one["embedding"] for one in reply_rows]
        how = f"HTTP, {CONNECTIONS} × {SENTENCES}"
        yield Encoder("heed", dtype, measure, np.array(rows), pid, how, card["bytes_resident"])


@contextmanager
def in_process(who: str, dtype: str, texts: list[str], *, quick: bool) -> Iterator[Encoder]:
    """Start another maker's encoder in its own environment; yield it."""
    python = python_of(who)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "sentences.json").write_text(json.dumps(texts))
        command = [str(python), str(SERVERS / "text_encoder.py"), who, dtype, str(FOLDER), name]
        command += ["quick"] * quick
        with piped(command) as (pid, first, ask):
            chosen = json.loads(first)
            how = f"in process, {chosen['calls']} × {chosen['size']}"
            pooled = np.load(work / "pooled.npy")[:CHECKED]
            yield Encoder(who, dtype, lambda seconds: float(ask(str(seconds))), pooled, pid, how)


def encoder_contest(
    peers: Sequence[str], lengths: tuple[int, int], *, seconds: float, rounds: int, quick: bool
) -> tuple[list[Encoder], list[str]]:
    """Return every contestant that could be started, measured in turns, and why others could not."""
    texts = sentences(*lengths)
    truth = Exact(FOLDER).pooled(texts[:CHECKED])
    wanted = [("heed", dtype) for dtype in HEED] + [(who, dtype) for who in peers for dtype in ENCODERS[who]]
    failures = []
    with contextlib.ExitStack() as running:
        found = []
        for who, dtype in wanted:
            start = heed(dtype, texts) if who == "heed" else in_process(who, dtype, texts, quick=quick)
            try:
                found.append(running.enter_context(start))
            except (EnvironmentFailed, StartFailed, SystemExit, subprocess.SubprocessError, OSError) as why:
                failures.append(f"{who} {dtype}: {why}")
                print(f"  left out: {failures[-1]}", flush=True)
        for one in found:
            one.error = float(np.abs(one.pooled - truth).max())
            one.measure(seconds / 2)  # warms
        for number in range(rounds):
            for one in found if number % 2 == 0 else found[::-1]:
                one.rates.append(one.measure(seconds))
        for one in found:
            print(line(one, resident_mb(one.pid)), flush=True)
    return found, failures


def line(one: Encoder, resident: float) -> str:
    """Return a contestant's row of the table."""
    return (
        f"  {one.who:12} {one.dtype:9} {one.rate:7.0f} ({min(one.rates):.0f} to {max(one.rates):.0f})  "
        f"error {one.error:.1e}  {resident:5.0f} MiB  {one.how}"
    )


def verdicts(found: Sequence[Encoder], text_set: int) -> list[tuple[str, float, float, bool]]:
    """Return what is promised, what was measured, the limit, and whether it is kept."""
    by = {(one.who, one.dtype): one for one in found}
    rows: list[tuple[str, float, float, bool]] = []
    for target in TARGETS:
        ours, other = by.get(("heed", target.dtype)), by.get(target.than)
        if ours and other:
            ratio, least = ours.rate / other.rate, target.least[text_set]
            rows.append((f"{target.dtype} : {' '.join(target.than)}", ratio, least, ratio >= least))
    base = by.get(("heed", "float32"))
    for dtype, most in MOST_ERROR.items():
        if one := by.get(("heed", dtype)):
            rows.append((f"{dtype}, error", one.error, most, one.error <= most))
        if one and base and one.weights_bytes and base.weights_bytes:
            share = round(one.weights_bytes / base.weights_bytes, 2)
            rows.append((f"{dtype}, weights", share, MOST_WEIGHTS[dtype], share <= MOST_WEIGHTS[dtype]))
    return rows


def ratios(found: Sequence[Encoder]) -> str:
    """Return Heed over every peer of its dtype, as one line."""
    ours = {one.dtype: one.rate for one in found if one.who == "heed"}
    pairs = [
        f"{dtype} : {one.who} {one.dtype} {rate / one.rate:.2f}"
        for dtype, rate in ours.items()
        for one in found
        if one.who != "heed" and (one.dtype == dtype)
    ]
    return "  Heed " + ", ".join(pairs) if pairs else "  no peer to compare with"


def encoder_contests(
    peers: Sequence[str], *, seconds: float, rounds: int, quick: bool, until: float
) -> tuple[dict[str, object], bool]:
    """Measure both sets of texts; print and return the result, and whether all that is promised is kept.

    `until`, on the monotonic clock: no set is begun after it.
    """
    sets: list[dict[str, object]] = []
    kept = True
    for number, lengths in enumerate(LENGTHS):
        if time.monotonic() >= until:
            print("out of time: not finished")
            return {"seconds": seconds, "rounds": rounds, "sets": sets}, False
        print(f"\nminilm, {lengths[0]} to {lengths[1]} words, sentences a second", flush=True)
        found, failures = encoder_contest(peers, lengths, seconds=seconds, rounds=rounds, quick=quick)
        print(ratios(found))
        rows = verdicts(found, number)
        for name, measured, limit, met in rows:
            print(f"  {name:34} {measured:9.3g}  limit {limit:<7g} {'met' if met else 'MISSED'}")
            kept &= met
        contestants = [
            {
                "who": one.who,
                "dtype": one.dtype,
                "rate": one.rate,
                "rates": one.rates,
                "error": one.error,
                "weights_bytes": one.weights_bytes,
                "how": one.how,
            }
            for one in found
        ]
        verdict_rows = [
            {"promise": name, "measured": measured, "limit": limit, "met": met}
            for name, measured, limit, met in rows
        ]
        sets.append(
            {"words": lengths, "contestants": contestants, "promises": verdict_rows, "failures": failures}
        )
        kept &= not failures
    return {"seconds": seconds, "rounds": rounds, "sets": sets}, kept
