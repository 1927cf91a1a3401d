"""Good and broken bodies of every format through the compiled readers, the decoders and the routes.

    python -m benchmarks.resilience.fuzz_wire SECONDS [SEED]
    python -m benchmarks.resilience.fuzz_wire overflow   # does wrong on purpose: a sanitizer must say so

Every body stands in memory of exactly its own size, so that a byte read beyond it is seen. What compiled code
reads and writes is compared with what simdjson and orjson do, to the bit and to the refusal's last word. A
finding is a difference, any exception that is no refusal, a 5xx, and whatever a sanitizer says (`compiled`).
"""

import ctypes
import importlib.util
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.resilience.bodies import FORMATS, OIP, harmed, numbers
from service.errors import HeedError
from service.wire import json_format, oip, tensor_bodies
from service.wire.compiled.native import Native
from service.wire.dtypes import Buffer
from tests.serving import Served, served

MOST_FINDINGS = 20
Finding = str | None


def readers() -> list[Native | None]:
    """Return the compiled readers, vectors and plain, and simdjson alone (None)."""
    found = importlib.util.find_spec("service.wire.compiled._native")
    assert found is not None
    assert found.origin is not None
    library = ctypes.CDLL(found.origin)
    return [None, Native(library), Native(library, plain=True)]


def exact(body: bytes) -> Buffer:
    """Return the body in memory of its own, where nothing that may be read comes after it."""
    held = np.empty(len(body), np.uint8)
    held[:] = np.frombuffer(body, np.uint8)
    return memoryview(held).toreadonly()


def same_however_read(body: bytes, ways: list[Native | None]) -> Finding:
    """Decode JSON in each way; all must give the same arrays, or the same refusal."""
    results = []
    for way in ways:
        json_format.native = lambda way=way: way  # type: ignore[attr-defined, misc]
        try:
            results.append(_plain(json_format.decode(exact(body))))
        except HeedError as refusal:
            results.append(str(refusal))
    json_format.native = lambda: ways[1]  # type: ignore[attr-defined]
    if any(one != results[0] for one in results[1:]):
        return f"read differently: {[str(one)[:200] for one in results]}"
    return None


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def written_alike(array: NDArray[np.float32], ways: list[Native | None]) -> Finding:
    """Write an array in each way; the text must be the same, and read back equal."""
    texts = []
    for way in ways:
        if way is None or not way.writes(array):
            continue
        out = np.empty(way.most_bytes(array), np.uint8)
        texts.append(out[: way.write(array, out)].tobytes())
    if any(text != texts[0] for text in texts[1:]):
        return "written differently by vectors and without"
    if texts:
        back = np.array(orjson.loads(texts[0]), np.float32).reshape(array.shape)
        finite = np.isfinite(array)
        if not np.array_equal(back[finite].view(np.uint32), array[finite].view(np.uint32)):
            return "what was written does not read back equal"
    return None


def refused_or_read(decode: Callable[[], object]) -> None:
    """Decode; a refusal is as good as a result."""
    with suppress(HeedError):
        decode()


def through_the_routes(chance: Random, kind: str, body: bytes, server: Served) -> Finding:
    """Send to a route that takes this format; 5xx is a finding."""
    path = chance.choice(
        ["/v1/models/fake/attend", "/v1/models/fake/attend", "/v1/attention", "/v1/embeddings"]
    )
    accept = chance.choice([kind, "application/json"])
    reply = server.post(path, body, headers={"content-type": kind, "accept": accept})
    return f"{reply.status_code}: {reply.text[:200]}" if reply.status_code >= 500 else None


class Campaign:
    """Fuzzing with one seed: what was tried, and what was found."""

    def __init__(self, seed: int, server: Served) -> None:
        self.tried: Counter[str] = Counter()
        self.findings = 0
        self._chance = Random(seed)
        self._server = server
        self._ways = readers()

    def one(self) -> None:
        """Try one body, or one array."""
        chance = self._chance
        if chance.random() < 0.2:
            array = numbers(chance)
            self._note("written", lambda: written_alike(array, self._ways), array.tobytes())
            return
        kind = chance.choice(list(FORMATS))
        body, head = FORMATS[kind](chance)
        if chance.random() < 0.6:
            body = harmed(chance, body)
        if kind == OIP:
            length = chance.choice([head, head, head, None, len(body), max(0, head - 1), 1])
            self._note(kind, lambda: refused_or_read(lambda: oip.decode(exact(body), length)), body)
            return
        if kind == "application/json":
            self._note(kind, lambda: same_however_read(body, self._ways), body)
        elif kind == "application/x-npy":
            self._note(kind, lambda: refused_or_read(lambda: tensor_bodies.npy_inputs(exact(body))), body)
        else:
            self._note(
                kind, lambda: refused_or_read(lambda: tensor_bodies.safetensors_inputs(exact(body))), body
            )
        if chance.random() < 0.2:
            self._note("routes", lambda: through_the_routes(chance, kind, body, self._server), body)

    def _note(self, what: str, attempt: Callable[[], Finding], shown: bytes) -> None:
        self.tried[what] += 1
        try:
            found = attempt()
        except Exception:  # noqa: BLE001  whatever is no refusal is a finding
            found = traceback.format_exc()[-600:]
        if found is not None:
            self.findings += 1
            print(f"FINDING {what}: {found}\n  {shown[:300]!r}", flush=True)


def overflow() -> None:
    """Write more than there is memory for, past the guard."""
    way = readers()[1]
    assert way is not None
    way.most_bytes = lambda _: 0  # type: ignore[method-assign]
    way.write(np.ones(4096, np.float32), np.empty(8, np.uint8))


def main(seconds: float, seed: int = 1) -> int:
    """Try until the time is over; return 1 where something was found."""
    until = time.monotonic() + seconds
    with served() as server:
        campaign = Campaign(seed, server)
        while time.monotonic() < until and campaign.findings < MOST_FINDINGS:
            campaign.one()
    tried = ", ".join(f"{count} {what}" for what, count in sorted(campaign.tried.items()))
    print(f"{campaign.tried.total()} tries ({tried}), {campaign.findings} findings")
    return int(campaign.findings > 0)


if __name__ == "__main__":
    if sys.argv[1] == "overflow":
        overflow()
    else:
        sys.exit(main(*(int(one) for one in sys.argv[1:])))
