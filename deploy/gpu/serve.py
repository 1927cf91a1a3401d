"""Serve the layer and minilm on a device, and measure them with `heed bench`: one server, stopped at the end.

serve.py --device cuda --workers 1 --connections 1,8
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parents[1]


def main() -> int:
    """Start a server, measure it, stop it; return 0 where it answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", default="1,8,32,128")
    chosen = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from benchmarks.workload import write_layer

    with tempfile.TemporaryDirectory() as folder:
        write_layer(Path(folder) / "layer")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        heed = [sys.executable, "-m", "service.cli"]
        dtype = "bfloat16" if chosen.device == "cuda" else "float32"
        models = f"layer={folder}/layer,minilm={HERE}/repository/minilm"
        own = {
            **os.environ,
            "HEED_MODEL": models,
            "HEED_DEVICE": chosen.device,
            "HEED_DTYPE": dtype,
            "HEED_HTTP_WORKERS": str(chosen.workers),
            "HEED_PORT": str(port),
            "HEED_LOG_LEVEL": "warning",
        }
        server = subprocess.Popen([*heed, "serve"], cwd=HERE, env=own)
        try:
            url = f"http://127.0.0.1:{port}"
            if not _ready(server, url):
                print("the server did not start")
                return 1
            seconds = "1.5" if chosen.device == "cuda" else "0.3"
            status = 0
            for model in ("layer", "minilm"):
                print(f"{model}, {chosen.workers} HTTP processes", flush=True)
                bench = [
                    *heed,
                    "bench",
                    model,
                    "--url",
                    url,
                    "--connections",
                    chosen.connections,
                    "--seconds",
                    seconds,
                ]
                status |= subprocess.run(bench, cwd=HERE, check=False).returncode
            return status
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _ready(server: "subprocess.Popen[bytes]", url: str) -> bool:
    for _ in range(120):
        if server.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=1):
                return True
        except OSError:
            time.sleep(0.25)
    return False


if __name__ == "__main__":
    sys.exit(main())
