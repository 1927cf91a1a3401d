"""Broken bodies of every format through the routes and the compiled readers; 5xx is a finding.

    python -m benchmarks.resilience.fuzzing SECONDS [SEED]

Bodies are good ones to which something is done: bytes changed, lost, doubled, cut, or numbers put in their
place. 5xx is a finding, and so is whatever a sanitizer says (`compiled`).
"""

import io
import json
import sys
import time
from collections import Counter
from random import Random

import numpy as np
import safetensors.numpy

from tests.serving import served

NUMBERS = (
    b"-0",
    b"1e38",
    b"1e-46",
    b"16777217",
    b"9" * 30,
    b"0.1",
    b"1E+5",
    b"-1e400",
    b"null",
    b"true",
    b"[]",
)
JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"


def good_body(chance: Random) -> tuple[str, bytes]:
    """Return a body of a random format and size that is right."""
    rows = chance.randrange(1, 17)
    x = np.random.default_rng(chance.getrandbits(32)).standard_normal((rows, 4), dtype=np.float32)
    kind = chance.choice([JSON, JSON, NPY, SAFETENSORS])
    if kind == NPY:
        file = io.BytesIO()
        np.save(file, x)
        return kind, file.getvalue()
    if kind == SAFETENSORS:
        return kind, safetensors.numpy.save({"0.embeddings": x, "1.embeddings": x[:1]})
    padding = {"dtype": "float32", "outputs": ["z"]} if chance.random() < 0.5 else {}
    inputs = [{"embeddings": x.tolist()}, {"token_ids": list(range(rows))}]
    text = json.dumps({**padding, "inputs": chance.sample(inputs, chance.randrange(1, 3))})
    return kind, text.replace(" ", chance.choice(["", " ", "\n\t"])).encode()


def harmed(chance: Random, body: bytes) -> bytes:
    """Return the body with up to three things done to it, or none."""
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(body) + 1)
        to = min(len(body), at + chance.randrange(1, 40))
        change = chance.randrange(5)
        if change == 0:
            body = body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
        elif change == 1:
            body = body[:at] + body[to:]
        elif change == 2:
            body = body[:to] + body[at:]
        elif change == 3:
            body = body[:at]
        else:
            body = body[:at] + chance.choice(NUMBERS) + body[at:]
    return body


def main(seconds: float, seed: int = 1) -> int:
    """Send until the time is over; return 1 where a reply was 5xx."""
    chance, statuses = Random(seed), Counter[int]()
    until = time.monotonic() + seconds
    with served() as running:
        while time.monotonic() < until:
            kind, body = good_body(chance)
            body = harmed(chance, body)
            reply = running.attend(body, headers={"content-type": kind, "accept": kind})
            statuses[reply.status_code] += 1
            if reply.status_code >= 500:
                print(kind, body[:300], reply.text[:300])
    print(f"{statuses.total()} bodies, {dict(statuses)}")
    return int(any(status >= 500 for status in statuses))


if __name__ == "__main__":
    sys.exit(main(*(int(one) for one in sys.argv[1:])))
