"""The whole server on a runtime whose batches take as long as is said (`tests.e2e.fake_server`)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.running import ROOT, Running, wait_until_ready

START_SECONDS = 60


@contextmanager
def fake_server(folder: Path, **plan: object) -> Iterator[Running]:
    """Run it while the block runs; its log and its temporary files are in `folder`."""
    scratch = folder / "tmp"
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.e2e.fake_server", json.dumps({"settings": {}, **plan})]
    environment = os.environ | {"TMPDIR": str(scratch)}
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    server = Running(process, 0, log_file, scratch)
    try:
        server.port = int(process.stdout.readline())
        wait_until_ready(server, START_SECONDS)
        server.started = server.pids()
        yield server
    finally:
        server.end()
        process.stdout.close()
