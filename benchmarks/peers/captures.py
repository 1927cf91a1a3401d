"""What others take out of a decoder of GPT-2's size, and Heed: attention of all layers, hidden states.

interp-engine's server runs in an environment of its own, as its documentation starts it: eager attention, one
prompt a request, tensors as base64 in JSON. Heed gets the same token ids in JSON and answers in safetensors.
Weights are random, prompts of 8 to 128 tokens; the answers are compared first. Heed's requests with edits are
held against the same ones without.
"""

import base64
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.numpy import load

from benchmarks.load import Load
from benchmarks.peers.contest import WrongAnswer, median
from benchmarks.peers.environments import EnvironmentFailed, python_of
from benchmarks.peers.running import StartFailed, free_port, post, resident_mb, running
from benchmarks.serve import serving
from benchmarks.timed import each_once
from benchmarks.workload import Body

PEER = "interp-engine"
LAYERS, VOCABULARY = 12, 50257
LENGTHS, PROMPTS = (8, 128), 32
WARMING = 4  # prompts before what is measured
MOST_CONNECTIONS = 8  # its queue is of 64, one at a time
TOLERANCE = 1e-4  # of the largest number: float32 sums of twelve layers in another order
OURS, THEIRS = "/v1/models/gpt2/attend", "/v1/capture"
SAFETENSORS = (("Accept", "application/x-safetensors"),)  # else the reply would be JSON


def _every(point: str) -> tuple[str, ...]:
    return tuple(f"{point}.{layer}" for layer in range(LAYERS))


@dataclass(frozen=True, slots=True)
class Question:
    """What is taken out: a field of ours, its points there, and how many times as fast Heed is to be."""

    name: str
    points: tuple[str, ...]
    output: str
    least: float
    layers: int | str = "all"


QUESTIONS = (
    Question("weights of all layers", _every("attn_probs"), "weights", 2.5),
    Question("hidden of all layers", (*_every("resid_post")[:-1], "final_norm"), "hidden", 2.3),
    Question("the last hidden", ("final_norm",), "hidden", 2.0, layers=-1),
)
EDITS: dict[str, list[dict[str, Any]]] = {
    "two heads silenced": [{"edit": "scale", "heads": [[3, 1], [8, 7]], "value": 0}],
    "edges blocked": [{"edit": "block", "layers": [5, 6, 7], "queries": [-1], "keys": [2, 3]}],
    "keys lowered": [{"edit": "add", "heads": [[n, 2 * n] for n in range(6)], "keys": [1, 4], "value": -4.6}],
}
MOST_OF_EDITS = 1.2  # what a request with edits may cost, times the same one without


@dataclass(frozen=True, slots=True)
class Turns:
    """Two kinds of requests in turns at one number of connections: medians over the rounds, and a promise.

    `ratio` is of requests a second, Heed's over the peer's; of edits, what they cost over what others do.
    """

    question: str
    connections: int
    other: Load
    heed: Load
    ratio: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether no request failed and the ratio is on the right side of its limit."""
        least = self.limit != MOST_OF_EDITS
        kept = self.ratio >= self.limit if least else self.ratio <= self.limit
        return kept and not self.other.errors + self.heed.errors


def write_model(folder: Path) -> None:
    """Save a GPT-2 as large as the published one, of random weights, with a tokenizer of as many words."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCABULARY))
    model.eval().save_pretrained(folder)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="w1").save_pretrained(folder)


def prompts() -> list[list[int]]:
    """Return token ids of random lengths."""
    chance = np.random.default_rng(1)
    lengths = chance.integers(LENGTHS[0], LENGTHS[1] + 1, size=PROMPTS)
    return [chance.integers(2, VOCABULARY, size=length).tolist() for length in lengths]


def our_body(question: Question, ids: list[int], edits: list[dict[str, Any]] | None = None) -> Body:
    """Return a request of Heed."""
    given: dict[str, Any] = {"token_ids": ids} | ({"edits": edits} if edits else {})
    asked = {"inputs": [given], "outputs": [question.output], "layers": question.layers}
    return Body("application/json", json.dumps(asked).encode(), SAFETENSORS)


def their_body(question: Question, ids: list[int]) -> Body:
    """Return a request of interp-engine."""
    asked = {"prompt_token_ids": ids, "points": question.points}
    return Body("application/json", json.dumps(asked).encode())


@contextmanager
def interp_engine(folder: Path) -> Iterator[tuple[str, int]]:
    """Run interp-engine's server on a model folder; yields its address and process id."""
    port = free_port()
    command = ["env", "HF_HUB_OFFLINE=1", str(python_of(PEER)), "-m", "interp_engine.server", "--model"]
    command += [str(folder), "--backend", "eager", "--device", "cpu", "--dtype", "float32"]
    command += ["--port", str(port), "--log-level", "warning"]
    url = f"http://127.0.0.1:{port}"
    with running(command, ready=f"{url}/health", folder=folder) as pid:
        yield url, pid


def check(ours: str, theirs: str, question: Question, ids: list[int]) -> None:
    """Raise WrongAnswer where the two do not say the same."""
    body = our_body(question, ids)
    reply = post(ours + OURS, body.content_type, body.content, dict(body.headers))
    found = load(reply)[f"0.{question.output}"]
    body = their_body(question, ids)
    sent = json.loads(post(theirs + THEIRS, body.content_type, body.content, {}))["activations"]
    right = [
        np.frombuffer(base64.b64decode(one["data"]), "<f4").reshape(one["shape"])
        for one in (sent[point] for point in question.points)
    ]
    expected = np.stack(right) if question.layers == "all" else right[0]
    if found.shape != expected.shape:
        raise WrongAnswer(f"{question.name}: {found.shape} and {expected.shape}")
    if (away := np.abs(found - expected).max() / np.abs(expected).max()) > TOLERANCE:
        raise WrongAnswer(f"{question.name}: {away:.1e} of the largest number apart")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often each is measured: every prompt once a round, so that all do the same work."""

    connections: Sequence[int]
    rounds: int

    def turns(
        self, heed: tuple[str, str, list[Body]], other: tuple[str, str, list[Body]]
    ) -> Iterator[tuple[int, Load, Load]]:
        """Yield both loads a number of connections; each side is an address, a path, and bodies."""
        sides = (heed, other)
        for number in self.connections:
            loads: tuple[list[Load], list[Load]] = ([], [])
            for url, path, bodies in sides:
                each_once(url, path, bodies[:WARMING], connections=number)
            for turn in range(self.rounds):
                for side in (0, 1) if turn % 2 == 0 else (1, 0):
                    url, path, bodies = sides[side]
                    loads[side].append(each_once(url, path, bodies, connections=number))
            yield number, median(loads[0]), median(loads[1])


def against_the_peer(ours: str, theirs: str, pace: Pace) -> Iterator[Turns]:
    """Yield every question at every number of connections."""
    asked = prompts()
    for question in QUESTIONS:
        check(ours, theirs, question, max(asked, key=len))
        mine = ours, OURS, [our_body(question, ids) for ids in asked]
        other = theirs, THEIRS, [their_body(question, ids) for ids in asked]
        for number, heed, peer in pace.turns(mine, other):
            ratio = heed.requests_per_second / peer.requests_per_second
            yield Turns(question.name, number, peer, heed, ratio, question.least)


def with_edits(url: str, pace: Pace) -> Iterator[Turns]:
    """Yield every kind of edit at every number of connections, beside the same requests without."""
    asked, question = prompts(), QUESTIONS[-1]
    plain = url, OURS, [our_body(question, ids) for ids in asked]
    for name, edits in EDITS.items():
        edited = url, OURS, [our_body(question, ids, edits) for ids in asked]
        for number, heed, other in pace.turns(edited, plain):
            cost = other.requests_per_second / heed.requests_per_second
            yield Turns(f"{name}, beside none", number, other, heed, cost, MOST_OF_EDITS)


def line(row: Turns) -> str:
    """Return one row of the table."""
    return (
        f"{row.question:40} {row.connections:5} {row.other.requests_per_second:8.1f} "
        f"{row.heed.requests_per_second:8.1f} {row.ratio:6.2f}   limit {row.limit:<4g} "
        f"{'met' if row.met else 'MISSED'}"
    )


def capture_contests(
    *, connections: Sequence[int], rounds: int, until: float
) -> tuple[dict[str, object], list[str]]:
    """Measure, print and return the rows, and what failed or was missed.

    `until`, on the monotonic clock: it ends between two rows.
    """
    pace = Pace([number for number in connections if number <= MOST_CONNECTIONS], rounds)
    rows: list[Turns] = []
    failures: list[str] = []
    resident: dict[str, float] = {}

    def measure(found: Generator[Turns, None, None] | Iterator[Turns]) -> None:
        for row in found:
            rows.append(row)
            print(line(row), flush=True)
            if time.monotonic() >= until:
                raise StartFailed("not finished, out of time")

    print(f"\nGPT-2's size, requests a second\n{'':40} {'conns':>5} {'other':>8} {'Heed':>8} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as started:
        folder = Path(name) / "gpt2"
        write_model(folder)
        try:
            ours, pid = started.enter_context(serving(repository=folder.parent))
            theirs, their_pid = started.enter_context(interp_engine(folder))
            measure(against_the_peer(ours, theirs, pace))
            resident = {"heed": resident_mb(pid), PEER: resident_mb(their_pid)}
            measure(with_edits(ours, pace))
        except (EnvironmentFailed, StartFailed, WrongAnswer, OSError) as problem:
            failures.append(f"{PEER}: {problem}")
            print(f"{PEER}: FAILED: {problem}", flush=True)
    failures += [f"{PEER}: {row.question}, {row.connections}: MISSED" for row in rows if not row.met]
    kept = [{**dataclasses.asdict(row), "met": row.met} for row in rows]
    return {"rounds": rounds, "rows": kept, "resident_mb": resident}, failures
