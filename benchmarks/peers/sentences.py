"""Real text through all-MiniLM-L6-v2: sentence-transformers in process, infinity-emb over HTTP, and Heed.

Sixteen sentences a request; the figures are sentences a second.
"""

import json
import tempfile
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.load import Load
from benchmarks.peers.contest import Row, WrongAnswer, median
from benchmarks.peers.environments import SERVERS, python_of
from benchmarks.peers.running import free_port, piped, post, resident_mb, running
from benchmarks.timed import closed_until_done, each_once
from benchmarks.workload import SENTENCES, Body, sentences

LENGTHS = ((8, 16), (8, 200))  # words
LONG_TEXT_CONNECTIONS = 8  # at 32, 512 long sentences would be in flight: seconds for one answer
LEAST_COSINE = 0.9999
WARM_SECONDS = 1

Measure = Callable[[int, int], Load]  # connections or batch size, seconds


@dataclass(frozen=True, slots=True)
class _Running:
    """A started peer: its process, an embedding of the first sentence, and how to put load on it."""

    pid: int
    embedding: np.ndarray
    measure: Measure


def text_path(heed_url: str) -> str:
    """Return where Heed takes text: `/v1/embeddings`, or `attend` in a version without it."""
    with urllib.request.urlopen(f"{heed_url}/openapi.json", timeout=30) as reply:
        offered = json.loads(reply.read())["paths"]
    return "/v1/embeddings" if "/v1/embeddings" in offered else "/v1/models/minilm/attend"


def text_contest(
    peer: str,
    heed: tuple[str, int],
    *,
    connections: Sequence[int],
    seconds: int,
    rounds: int,
    lengths: tuple[int, int],
) -> Generator[Row, None, None]:
    """Start a peer of `TEXT_PEERS`, compare one embedding, and yield a row a number of connections.

    Raises EnvironmentFailed, StartFailed, WrongAnswer, and HTTPError where it refuses the work.
    """
    heed_url, heed_pid = heed
    texts = sentences(*lengths)
    if lengths == LENGTHS[-1]:
        connections = [number for number in connections if number <= LONG_TEXT_CONNECTIONS]
    path = text_path(heed_url)
    bodies = text_bodies(path, texts)
    (own,) = _embeddings(heed_url, path, texts[:1])
    with TEXT_PEERS[peer](texts) as running_peer:
        cosine = _cosine(own, running_peer.embedding)
        if cosine < LEAST_COSINE:
            raise WrongAnswer(f"{peer}'s embedding and Heed's have cosine {cosine}")
        measure = over_http(heed_url, path, bodies)
        for warm in (measure, running_peer.measure):
            warm(8, WARM_SECONDS)
        for number in connections:
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(measure(number, seconds))
                theirs.append(running_peer.measure(number, seconds))
            yield Row(
                contestant=peer,
                lane=f"{lengths[0]} to {lengths[1]} words",
                connections=number,
                peer=median(theirs),
                heed=median(ours),
                peer_mb=resident_mb(running_peer.pid),
                heed_mb=resident_mb(heed_pid),
                rounds=rounds,
                items=SENTENCES,
            )


@contextmanager
def _infinity(texts: list[str], at_once: int = SENTENCES) -> Iterator[_Running]:
    python = python_of("infinity")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["env", "HF_HUB_OFFLINE=1", "DO_NOT_TRACK=1", str(python.parent / "infinity_emb"), "v2"]
    command += ["--model-id", str(_model()), "--served-model-name", "minilm", "--engine", "torch"]
    command += ["--device", "cpu", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(command, ready=f"{url}/health", folder=Path(folder)) as pid,
    ):
        bodies = text_bodies("/embeddings", texts, at_once)
        (embedding,) = _embeddings(url, "/embeddings", texts[:1])
        yield _Running(pid, embedding, over_http(url, "/embeddings", bodies))


@contextmanager
def _sentence_transformers(texts: list[str], _: int = SENTENCES) -> Iterator[_Running]:
    python = python_of("sentence-transformers")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sentences.json"
        file.write_text(json.dumps(texts))
        command = [str(python), str(SERVERS / "sentence_encoder.py"), str(_model()), str(file)]
        with piped(command) as (pid, first, ask):

            def measure(batch: int, seconds: int) -> Load:
                rate = float(ask(f"{batch} {seconds}")) / SENTENCES
                took_ms = 1e3 / rate  # what 16 sentences take, on average
                return Load(batch, rate, 0.0, took_ms, took_ms, 0)

            yield _Running(pid, np.array(json.loads(first)), measure)


TEXT_PEERS = {"sentence-transformers": _sentence_transformers, "infinity": _infinity}


def over_http(url: str, path: str, bodies: list[Body]) -> Measure:
    """Return how to put load on a server: a closed loop, or for 0 seconds every body once."""

    def measure(connections: int, seconds: int) -> Load:
        if seconds == 0:
            return each_once(url, path, bodies, connections=connections)
        return closed_until_done(url, path, bodies, connections=connections, seconds=seconds)

    return measure


def _model() -> Path:
    return Path(__file__).parents[2] / "repository" / "minilm"


def text_bodies(path: str, texts: list[str], at_once: int = SENTENCES) -> list[Body]:
    """Return requests of so many texts each."""
    return [
        Body("application/json", _request(path, texts[at : at + at_once]))
        for at in range(0, len(texts), at_once)
    ]


def _request(path: str, texts: list[str]) -> bytes:
    content: dict[str, object] = {"model": "minilm", "input": texts}
    if path.endswith("/attend"):
        content = {"inputs": [{"text": text} for text in texts], "outputs": ["pooled"]}
    return json.dumps(content).encode()


def _embeddings(url: str, path: str, texts: list[str]) -> list[np.ndarray]:
    reply = json.loads(post(url + path, "application/json", _request(path, texts), {}))
    found = (
        [one["pooled"] for one in reply["outputs"]]
        if path.endswith("/attend")
        else [one["embedding"] for one in reply["data"]]
    )
    return [np.array(one) for one in found]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
