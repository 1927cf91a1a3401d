"""How far a stranger has to walk: the files, calls and moves of one request, counted by `sys.setprofile`.

One JSON attend request of one text (minilm, hidden states of one layer) over a socket, on a server that has
answered others like it. Counted on every thread are calls of named functions of `models/` and `service/`,
and moves: calls by a function of another of their files. What a layer adds is the difference between asking
for a deeper layer and for a shallower one, by how many layers lie between them. Of several requests the one
with the fewest calls counts: what the server does at its own times fell into the others.

    python -m benchmarks.walk [--trace]

`--trace` also prints the walk itself: each file in the order of its first call, with its calls and functions.
"""

import argparse
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.report import save

ROOT = Path(__file__).parents[1]
OURS = (f"{ROOT}/models/", f"{ROOT}/service/")
LIMITS = {"files": 40, "calls": 450, "moves": 250, "moves a layer": 12}
WARM = 20  # requests before one is counted
TRIES = 5
SHALLOW, DEEP = 1, 5  # layers, counted from 0
TEXT = "An old man sat alone by the river."
POLLS = 100
ON, OFF = signal.SIGUSR1, signal.SIGUSR2
SETTLE_SECONDS = 0.05  # for what a request leaves to do when its reply is on its way


class Call(NamedTuple):
    """One call of one of our functions: its file, its name, and the file of who called."""

    file: str
    function: str
    caller: str | None


class Profile:
    """What is called while `on`, on all threads that begin once it is installed."""

    def __init__(self) -> None:
        self.on = False
        self.calls: list[Call] = []

    def install(self) -> None:
        """Watch this thread, and those that begin from now on."""
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Note a call; everything else passes."""
        if not self.on or event != "call":
            return
        code = frame.f_code
        if not code.co_filename.startswith(OURS) or code.co_name.startswith("<"):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(OURS):
            caller = caller.f_back
        self.calls.append(
            Call(code.co_filename, code.co_name, None if caller is None else caller.f_code.co_filename)
        )


def figures(calls: list[Call]) -> dict[str, int]:
    """Return how many files were walked through, by how many calls and moves."""
    return {
        "files": len({call.file for call in calls}),
        "calls": len(calls),
        "moves": sum(call.caller is not None and call.caller != call.file for call in calls),
    }


def ask(connection: http.client.HTTPConnection, layer: int) -> None:
    """Ask once for hidden states of one text, and read the reply."""
    body = json.dumps({"inputs": [{"text": TEXT}], "outputs": ["hidden"], "layers": [layer]})
    connection.request("POST", "/v1/models/minilm/attend", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    answer = reply.read()
    if reply.status != 200:
        raise SystemExit(f"the request failed: {reply.status} {answer[:300]!r}")


def walk(server: subprocess.Popen[bytes], port: int, kept: Path) -> dict[int, list[Call]]:
    """Return the calls of one request for each of two layers, after others like it."""
    _wait(port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    found = {}
    for layer in (SHALLOW, DEEP):
        for _ in range(WARM):
            ask(connection, layer)
        found[layer] = min((_counted(server, connection, layer, kept) for _ in range(TRIES)), key=len)
    return found


def _counted(
    server: subprocess.Popen[bytes], connection: http.client.HTTPConnection, layer: int, kept: Path
) -> list[Call]:
    """Return the calls of one request."""
    time.sleep(SETTLE_SECONDS)
    server.send_signal(ON)
    ask(connection, layer)
    time.sleep(SETTLE_SECONDS)
    server.send_signal(OFF)
    for _ in range(POLLS):
        if kept.exists():
            break
        time.sleep(0.1)
    calls = [Call(*call) for call in json.loads(kept.read_text())]
    kept.unlink()
    return calls


def trace(calls: list[Call]) -> None:
    """Print each file in the order of its first call."""
    counts = Counter(call.file for call in calls)
    functions: dict[str, Counter[str]] = {}
    for call in calls:
        functions.setdefault(call.file, Counter())[call.function] += 1
    for file, named in functions.items():
        names = ", ".join(f"{name} {number}" if number > 1 else name for name, number in named.items())
        print(f"{counts[file]:5}  {file.removeprefix(f'{ROOT}/')}: {names}")


def main() -> int:
    """Serve minilm in another process, count one request, print; return 1 where a limit is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", action="store_true", help="print the walk, file by file")
    chosen = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "calls.json"
        command = [sys.executable, "-c", "from benchmarks.walk import serve; serve()", str(kept)]
        command += ["serve", "--port", str(port), "--models", "minilm"]
        command += ["--model-repository", str(ROOT / "repository"), "--log-level", "warning"]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            found = walk(server, port, kept)
        finally:
            server.terminate()
            server.wait(timeout=60)
    measured: dict[str, float] = {**figures(found[DEEP])}
    deeper = measured["moves"] - figures(found[SHALLOW])["moves"]
    measured["moves a layer"] = round(deeper / (DEEP - SHALLOW), 1)
    if chosen.trace:
        trace(found[DEEP])
    for name, limit in LIMITS.items():
        print(f"{name:14} {measured[name]:6}   limit {limit}{'' if measured[name] <= limit else '  OVER'}")
    save("walk", {"measured": measured, "limits": LIMITS})
    return int(any(measured[name] > limit for name, limit in LIMITS.items()))


def serve() -> None:
    """Be `heed serve` under the profile: ON begins to count, OFF writes the calls to the file named first."""
    kept = Path(sys.argv.pop(1))
    profile = Profile()

    def begin(*_: object) -> None:
        profile.calls, profile.on = [], True

    def end(*_: object) -> None:
        profile.on = False
        whole = kept.with_suffix(".part")
        whole.write_text(json.dumps(profile.calls))
        whole.rename(kept)

    signal.signal(ON, begin)
    signal.signal(OFF, end)
    profile.install()
    from service.cli import main as heed

    heed()


def _wait(port: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server was not ready in 120 s")


if __name__ == "__main__":
    sys.exit(main())
