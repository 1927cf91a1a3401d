"""Heed and one peer in turns: the same bodies from the same generator, medians of several rounds."""

import statistics
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.floor import Bare
from benchmarks.load import Load, closed_loop
from benchmarks.peers.contestants import Contestant, Lane, Place
from benchmarks.peers.environments import python_of
from benchmarks.peers.formats import FORMATS
from benchmarks.peers.running import free_port, post, resident_mb, running
from benchmarks.workload import Body, layer_weights, sequences

HEED_PATHS = {"heed JSON": "/v1/models/layer/attend", "OIP binary": "/v2/models/layer/infer"}
TOLERANCE = 1e-4
WARM_SECONDS = 1


class WrongAnswer(Exception):
    """A server's z is not the layer's: its figures would compare nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds of one lane at one number of connections; `heed` ran in the same rounds."""

    contestant: str
    lane: str
    connections: int
    peer: Load
    heed: Load
    peer_mb: float
    heed_mb: float
    rounds: int
    items: int = 1  # sequences in one request

    @property
    def ratio(self) -> float | None:
        """Heed's requests a second over the peer's; None where the peer answered nothing in the time."""
        theirs = self.peer.requests_per_second
        return self.heed.requests_per_second / theirs if theirs else None


def contest(
    contestant: Contestant,
    heed: tuple[str, int],
    *,
    connections: Sequence[int],
    seconds: int,
    rounds: int,
) -> Generator[Row, None, None]:
    """Start a peer, check its answers, and yield a row a lane and number of connections.

    Raises EnvironmentFailed, StartFailed, WrongAnswer, and HTTPError where it refuses the work.
    """
    inputs = sequences(8, 128)
    heed_url, heed_pid = heed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "layer.npz"
        np.savez(weights, **layer_weights())
        (folder / "peer").mkdir()
        place = Place(python_of(contestant.peer), folder / "peer", free_port(), weights)
        url = f"http://127.0.0.1:{place.port}"
        command = contestant.start(place)
        with running(command, ready=url + contestant.ready, folder=place.folder) as pid:
            for lane in contestant.lanes:
                rival = Lane("heed", FORMATS[lane.format].rival, HEED_PATHS[FORMATS[lane.format].rival])
                for where, which in ((url, lane), (heed_url, rival)):
                    _check(where, which, inputs)
                    _load(where, which, inputs, connections=8, seconds=WARM_SECONDS)
                for number in connections:
                    ours, theirs = [], []
                    for _ in range(rounds):
                        ours.append(_load(heed_url, rival, inputs, connections=number, seconds=seconds))
                        theirs.append(_load(url, lane, inputs, connections=number, seconds=seconds))
                    yield Row(
                        contestant=contestant.name,
                        lane=lane.name,
                        connections=number,
                        peer=median(theirs),
                        heed=median(ours),
                        peer_mb=resident_mb(pid),
                        heed_mb=resident_mb(heed_pid),
                        rounds=len(ours),
                    )


def _check(url: str, lane: Lane, inputs: list[np.ndarray]) -> None:
    """Compare the answers to the shortest and the longest sequence with bare torch's."""
    bare = Bare(packed=False, weights=False)
    for x in (min(inputs, key=len), max(inputs, key=len)):
        body = FORMATS[lane.format].write(x)
        reply = post(url + lane.path, body.content_type, body.content, dict(body.headers))
        z = FORMATS[lane.format].read(reply)
        with torch.inference_mode():
            expected = bare.one_by_one([torch.from_numpy(x)])[0][0].numpy()
        if z.shape != expected.shape or not np.allclose(z, expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise WrongAnswer(f"{lane.name} answers {z.shape} {z[:1, :3]}, not {expected[:1, :3]}")


def _load(url: str, lane: Lane, inputs: list[np.ndarray], *, connections: int, seconds: int) -> Load:
    bodies = [FORMATS[lane.format].write(x) for x in inputs]
    load = closed_loop(url, lane.path, bodies, connections=connections, seconds=seconds)
    _settle(url + lane.path, bodies[0])
    return load


def _settle(url: str, body: Body) -> None:
    """Wait until one more request is answered: what a closed loop left behind must not burden the next."""
    post(url, body.content_type, body.content, dict(body.headers))


def median(loads: list[Load]) -> Load:
    """Return the medians of some runs, and all their errors."""
    return Load(
        connections=loads[0].connections,
        requests_per_second=statistics.median(load.requests_per_second for load in loads),
        bytes_per_second=statistics.median(load.bytes_per_second for load in loads),
        p50_ms=statistics.median(load.p50_ms for load in loads),
        p99_ms=statistics.median(load.p99_ms for load in loads),
        errors=sum(load.errors for load in loads),
    )
