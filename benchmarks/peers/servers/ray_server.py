"""The layer behind Ray Serve: `ray_server.py <port> <weights> documented|tuned`.

documented: `serve.batch`, and lists in and out. tuned: rendered replies, JSON by orjson or raw bytes both
ways; its environment sets RAY_SERVE_THROUGHPUT_OPTIMIZED, as the performance guide says.
"""

import signal
import sys
from pathlib import Path

import numpy as np
import orjson
import ray
from layer import Layer
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request
from starlette.responses import Response

BATCH = 16
MOST_ONGOING = 256


@serve.deployment(max_ongoing_requests=MOST_ONGOING, ray_actor_options={"num_cpus": 1})
class Server:
    """One replica, which holds the layer."""

    def __init__(self, weights: str, *, tuned: bool) -> None:
        self.layer = Layer(Path(weights), threads=2)
        self.tuned = tuned

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.0)
    async def attend(self, inputs: list) -> list:
        """Attend a batch of sequences."""
        return self.layer.attend(inputs)

    async def __call__(self, request: Request) -> object:
        """Answer one request in its own format."""
        if request.headers["content-type"] == "application/octet-stream":
            x = np.frombuffer(await request.body(), dtype="<f4").reshape(-1, self.layer.d_model)
            return Response((await self.attend(x)).tobytes(), media_type="application/octet-stream")
        if not self.tuned:
            x = np.array((await request.json())["embeddings"], dtype=np.float32)
            return {"z": (await self.attend(x)).tolist()}
        x = np.array(orjson.loads(await request.body())["embeddings"], dtype=np.float32)
        content = orjson.dumps({"z": await self.attend(x)}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(content, media_type="application/json")


if __name__ == "__main__":
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(Path(sys.argv[2]).parent / "ray"),
        _node_ip_address="127.0.0.1",
        object_store_memory=10**9,
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=int(sys.argv[1])))
    serve.run(Server.bind(sys.argv[2], tuned=sys.argv[3] == "tuned"), route_prefix="/attend")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
