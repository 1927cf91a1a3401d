"""The layer behind LitServe: `litserve_server.py <port> <weights> documented|tuned`.

documented: batching, and lists in and out, as LitServe's guides write it.
tuned: the ZeroMQ queue, replies rendered in the worker by orjson, and base64 in with raw bytes out, since
LitServe reads JSON or forms only.
"""

import base64
import sys
from pathlib import Path

import litserve as ls
import numpy as np
import orjson
from fastapi import Response
from layer import Layer

BATCH = 16
BATCH_SECONDS = 0.002


class Documented(ls.LitAPI):
    """Lists in, lists out."""

    def setup(self, _device: str) -> None:
        """Load the layer, once a worker."""
        self.layer = Layer(Path(sys.argv[2]), threads=2)

    def decode_request(self, request: dict) -> np.ndarray:
        """Return one sequence [T, d_model]."""
        return np.array(request["embeddings"], dtype=np.float32)

    def batch(self, inputs: list) -> list:
        """Keep the sequences apart: they differ in length."""
        return list(inputs)

    def predict(self, inputs: list) -> list:
        """Attend a batch."""
        return self.layer.attend(inputs)

    def unbatch(self, output: list) -> list:
        """Return one z a request."""
        return output

    def encode_response(self, output: np.ndarray) -> object:
        """Return z as lists."""
        return {"z": output.tolist()}


class Tuned(Documented):
    """Base64 or lists in; orjson or raw bytes out."""

    def decode_request(self, request: dict) -> tuple:
        """Return one sequence, and whether it came as bytes."""
        given = request["embeddings"]
        if isinstance(given, str):
            return np.frombuffer(base64.b64decode(given), dtype="<f4").reshape(request["shape"]), True
        return np.array(given, dtype=np.float32), False

    def predict(self, inputs: list) -> list:
        """Attend a batch."""
        answers = self.layer.attend([x for x, _ in inputs])
        return [(z, as_bytes) for z, (_, as_bytes) in zip(answers, inputs, strict=True)]

    def encode_response(self, output: tuple) -> object:
        """Return a rendered reply in the kind of the request."""
        z, as_bytes = output
        if as_bytes:
            return Response(z.tobytes(), media_type="application/octet-stream")
        content = orjson.dumps({"z": z}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(content, media_type="application/json")


if __name__ == "__main__":
    tuned = sys.argv[3] == "tuned"
    kind = Tuned if tuned else Documented
    server = ls.LitServer(
        kind(max_batch_size=BATCH, batch_timeout=BATCH_SECONDS),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=tuned,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
