"""Who is compared: how each peer is started as its documentation recommends, and once more tuned by hand."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import SERVERS
from benchmarks.peers.running import free_port

CORES = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: its interpreter, an empty folder, a free port, the layer's weights as `.npz`."""

    python: Path
    folder: Path
    port: int
    weights: Path


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to send the work to a running peer."""

    name: str
    format: str
    path: str


@dataclass(frozen=True, slots=True)
class Contestant:
    """One configuration of a peer: `start` prepares its folder and returns the command to run in it."""

    peer: str  # its environment is `servers/<peer>.txt`
    name: str
    start: Callable[[Place], list[str]]
    ready: str
    lanes: tuple[Lane, ...]
    rounds: int = 1  # times the rounds asked for; one in a quick run
    quick: bool = True  # whether a quick run has it


TRITON_CONFIG = """
name: "layer"
backend: "python"
max_batch_size: {max_batch_size}
input [{{ name: "embeddings" data_type: TYPE_FP32 dims: [ -1, 768 ] {ragged} }}]
output [{{ name: "z" data_type: TYPE_FP32 dims: [ -1, 768 ] }}]
instance_group [{{ count: {instances} kind: KIND_CPU }}]
parameters {{ key: "weights" value {{ string_value: "{weights}" }} }}
parameters {{ key: "code" value {{ string_value: "{code}" }} }}
parameters {{ key: "threads" value {{ string_value: "{threads}" }} }}
{batching}
"""


def _triton(place: Place, *, instances: int, batched: bool) -> list[str]:
    """Write Triton's model repository, and a Python backend that finds the environment's packages."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = place.python.parents[1] / "lib" / f"python{version}" / "site-packages"
    triton = packages / "pytriton" / "tritonserver"
    backends = place.folder / "backends"
    shutil.copytree(triton / "backends", backends)
    stub = "triton_python_backend_stub"
    shutil.copy2(triton / "python_backend_stubs" / version / stub, backends / "python" / stub)
    # The stub drops PYTHONPATH, and without a torch of its own the backend would serve nothing.
    utilities = backends / "python" / "triton_python_backend_utils.py"
    utilities.write_text(f"import sys\nsys.path.insert(0, {str(packages)!r})\n" + utilities.read_text())
    model = place.folder / "models" / "layer"
    (model / "1").mkdir(parents=True)
    shutil.copy2(SERVERS / "triton_model.py", model / "1" / "model.py")
    config = TRITON_CONFIG.format(
        max_batch_size=32 if batched else 0,
        ragged="allow_ragged_batch: true" if batched else "",
        batching="dynamic_batching { }" if batched else "",
        instances=instances,
        threads=CORES // instances,
        weights=place.weights,
        code=SERVERS,
    )
    (model / "config.pbtxt").write_text(config)
    return [
        "env",
        f"LD_LIBRARY_PATH={packages / 'nvidia_pytriton.libs'}",
        str(triton / "bin" / "tritonserver"),
        f"--model-repository={place.folder / 'models'}",
        f"--backend-directory={backends}",
        f"--http-port={place.port}",
        "--http-address=127.0.0.1",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--log-verbose=0",
    ]


def _triton_lanes(suffix: str) -> tuple[Lane, ...]:
    return tuple(Lane(name, name + suffix, OIP_PATH) for name in ("OIP JSON", "OIP binary"))


def _script(name: str, place: Place, mode: str) -> list[str]:
    return [str(place.python), str(SERVERS / name), str(place.port), str(place.weights), mode]


def _ray(place: Place, mode: str) -> list[str]:
    switches = ["RAY_SERVE_THROUGHPUT_OPTIMIZED=1"] if mode == "tuned" else []
    return ["env", "RAY_USAGE_STATS_ENABLED=0", *switches, *_script("ray_server.py", place, mode)]


def _mlserver(place: Place, *, workers: int, threads: int) -> list[str]:
    """Write MLServer's settings; with no workers the layer runs in the server's own process."""
    server = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": workers,
        "debug": False,
    }
    model = {
        "name": "layer",
        "implementation": "mlserver_model.LayerModel",
        "parameters": {"uri": str(place.weights), "extra": {"threads": threads}},
    }
    (place.folder / "settings.json").write_text(json.dumps(server))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [
        "env",
        f"PYTHONPATH={SERVERS}",
        str(place.python.parent / "mlserver"),
        "start",
        str(place.folder),
    ]


OIP_PATH = "/v2/models/layer/infer"

CONTESTANTS = (
    Contestant(
        peer="triton",
        name="Triton, dynamic batcher",
        start=lambda place: _triton(place, instances=1, batched=True),
        ready="/v2/health/ready",
        lanes=_triton_lanes(", batch axis"),
        rounds=2,
        quick=False,  # the slowest of the three here
    ),
    Contestant(
        peer="triton",
        name="Triton, two instances",
        start=lambda place: _triton(place, instances=2, batched=False),
        ready="/v2/health/ready",
        lanes=_triton_lanes(""),
        rounds=2,
    ),
    Contestant(
        peer="triton",
        name="Triton, one instance",
        start=lambda place: _triton(place, instances=1, batched=False),
        ready="/v2/health/ready",
        lanes=_triton_lanes(""),
        rounds=2,
    ),
    Contestant(
        peer="litserve",
        name="LitServe, as documented",
        start=lambda place: _script("litserve_server.py", place, "documented"),
        ready="/health",
        lanes=(Lane("JSON", "JSON", "/predict"),),
        quick=False,
    ),
    Contestant(
        peer="litserve",
        name="LitServe, tuned",
        start=lambda place: _script("litserve_server.py", place, "tuned"),
        ready="/health",
        lanes=(Lane("JSON", "JSON", "/predict"), Lane("base64", "base64 in, raw out", "/predict")),
    ),
    Contestant(
        peer="mlserver",
        name="MLServer, as documented",
        start=lambda place: _mlserver(place, workers=1, threads=2),
        ready="/v2/models/layer/ready",
        lanes=(Lane("OIP JSON", "OIP JSON", OIP_PATH),),
        quick=False,
    ),
    Contestant(
        peer="mlserver",
        name="MLServer, tuned",
        start=lambda place: _mlserver(place, workers=0, threads=2),
        ready="/v2/models/layer/ready",
        lanes=(Lane("OIP JSON", "OIP JSON", OIP_PATH), Lane("OIP base64", "OIP base64", OIP_PATH)),
    ),
    Contestant(
        peer="ray",
        name="Ray Serve, as documented",
        start=lambda place: _ray(place, "documented"),
        ready="/-/healthz",
        lanes=(Lane("JSON", "JSON", "/attend"),),
        quick=False,
    ),
    Contestant(
        peer="ray",
        name="Ray Serve, tuned",
        start=lambda place: _ray(place, "tuned"),
        ready="/-/healthz",
        lanes=(Lane("JSON", "JSON", "/attend"), Lane("raw", "raw", "/attend")),
    ),
)
