"""What the requests of `benchmarks.loop` are made of: paths, formats, and the bytes of a request."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes import fake_card

MODELS = 1000
CARD = fake_card("fake", heads=8, key_heads=8, d_model=64, d_k=8, d_v=8, max_tokens=8192, layers=12)
ATTEND = "/v1/models/fake/attend"
JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"
Make = Callable[[], bytes]
Requests = Iterator[tuple[str, Make]]  # each with its name


def post(path: str, body: bytes, kind: str = JSON, *lines: str) -> bytes:
    """Return a POST; `lines` are more of its head."""
    head = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def get(path: str, *lines: str) -> bytes:
    """Return a GET; `lines` are more of its head."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *lines]).encode() + b"\r\n\r\n"


def of(path: str, fields: dict[str, Any], *lines: str) -> Make:
    """Return what makes a POST of JSON."""
    return lambda: post(path, json.dumps(fields).encode(), JSON, *lines)
