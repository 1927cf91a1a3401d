"""Full folders and streams that take nothing: no line and no number that cannot be written ends a server."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_server import Server, wait_until_ready

ROOT = Path(__file__).parents[2]
IN_A_SMALL_FOLDER = 'mount -t tmpfs -o size=1m tmpfs "$0" && TMPDIR="$0" exec "$@"'
ALL_CLOSED = "<&- >&- 2>&-"
SOON_GONE = ("--drain-seconds", "1")  # new connections are taken for half of it after SIGTERM
COUNT = """
import json, os, pathlib, tempfile
os.environ["PROMETHEUS_MULTIPROC_DIR"] = ""  # must be set when prometheus_client is imported
from service.socket.leftovers import MetricsFolder, NoRoom
folder = MetricsFolder()
folder.reserve(os.getpid())
os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder.path
from service.metrics.gauges import Readings
from service.metrics.registry import Metrics
metrics = Metrics()
none = Readings(queued_requests=int, queued_tokens=int, connections=int, model_bytes=dict, device_memory=dict)
metrics.watch(none)
def count():
    for number in range(2000):
        metrics.rejected(f"reason {number}")
    return metrics.page().decode().count("heed_rejected_total{")
fill = pathlib.Path(tempfile.gettempdir(), "fill")
with fill.open("wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass
try:
    MetricsFolder().reserve(1)
    refused = ""
except NoRoom as error:
    refused = str(error)
full = count()
fill.unlink()
print(json.dumps({"full": full, "free": count(), "refused": refused}))
"""
FAIL = """
import threading, time, service.cli
def load(settings):
    threading.Thread(target=time.sleep, args=(3600,)).start()
    raise RuntimeError("no such luck")
service.cli.load_runtime = load
service.cli.main()
"""
WITHOUT_A_DEVICE = """
import service.cli
from tests.fakes import FakeRuntime, fake_card
service.cli.load_runtime = lambda settings: FakeRuntime(fake_card("minilm"))
service.cli.main()
"""


def test_metrics_that_have_no_room_are_of_one_process_until_there_is(tmp_path: Path) -> None:
    unshare = [shutil.which("unshare") or "false", "--user", "--map-root-user", "--mount", "sh", "-c"]
    inside = [*unshare, IN_A_SMALL_FOLDER, str(tmp_path)]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a folder of its own size cannot be mounted here")
    command = [*inside, sys.executable, "-c", COUNT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert 100 < told["full"] < 2000 == told["free"]
    assert str(tmp_path) in told["refused"]
    assert "TMPDIR" in told["refused"]
    assert done.stderr.count("cannot grow") == 1


@pytest.mark.parametrize(
    ("streams", "workers"),
    [
        (">/dev/full", 1),
        (">&-", 1),
        ("2>&-", 1),
        (ALL_CLOSED, 2),
        (">/dev/full 2>/dev/full", 2),
        ("|", 1),
    ],
)
def test_streams_that_take_nothing_stop_no_server(repository: Path, streams: str, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Of a real model once: what it opens must not get the numbers of streams either.
    program = ["-m", "service.cli"] if streams == ALL_CLOSED else ["-c", WITHOUT_A_DEVICE]
    command = [sys.executable, *program, "serve", "--port", str(port), "--models", "minilm"]
    command += ["--model-repository", str(repository), "--http-workers", str(workers), *SOON_GONE]
    reading, writing = os.pipe()
    os.close(reading)  # nobody will read
    script = f'exec "$@" {streams}' if streams != "|" else 'exec "$@"'
    out = writing if streams == "|" else subprocess.DEVNULL
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *command], stdout=out, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    os.close(writing)
    try:
        server = Server(f"http://127.0.0.1:{port}", process)
        wait_until_ready(server)
        assert server.post({"inputs": [{"text": "a"}], "outputs": ["z"]}).status_code == 200
        if streams == ALL_CLOSED:
            others = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for pid in (process.pid, *others):  # whose first three numbers are nothing's that matters
                assert {Path(f"/proc/{pid}/fd/{number}").readlink().name for number in range(3)} == {"null"}
        process.terminate()
        assert process.wait(timeout=40) == 0
    finally:
        process.kill()
        process.wait()


def test_whatever_fails_before_serving_ends_the_process_whatever_threads_remain() -> None:
    command = [sys.executable, "-c", FAIL, "serve", "--port", "0", "--allow-empty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no such luck" in done.stderr
