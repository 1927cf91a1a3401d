"""The whole server on a runtime whose batches take as long as is said (`tests.e2e.fake_server`)."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.running import ROOT

__all__ = ["fake_server"]


@contextmanager
def fake_server(folder: Path, **plan: object) -> Iterator[int]:
    """Run it while the block runs; yields its port."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.e2e.fake_server", json.dumps(plan)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        while True:  # the address is taken before the server listens on it
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert process.poll() is None
        yield port
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()
