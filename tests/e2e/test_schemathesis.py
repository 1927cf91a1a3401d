"""schemathesis reads /openapi.json and asks what it allows and what it forbids, over a real socket.

`schemathesis.toml`, beside this file, has the few refusals that a schema cannot foresee, and why.
"""

import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Start

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = 25  # an operation, beside the coverage phase's systematic ones
LEAST_CASES = 500
MOST_SECONDS = 240


def test_schemathesis_finds_nothing(start_once: Start, tmp_path: Path) -> None:
    server = start_once(settings={"admin": True})
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION)),
        *("run", f"http://127.0.0.1:{server.port}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--mode", "all", "--checks", "all"),
        *("--max-examples", str(EXAMPLES), "--seed", "1", "--generation-deterministic"),
        *("--continue-on-failure", "--no-color"),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    generated = re.search(r"(\d+) generated", done.stdout)
    assert generated, done.stdout[-2000:]
    assert int(generated[1]) >= LEAST_CASES
    assert server.attend().status == 200
    assert server.stop() == 0
