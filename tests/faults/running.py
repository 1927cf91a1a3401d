"""`heed serve` of the demo model as a process that faults are done to: limits, memory, descendants, log."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.faults.wire import MODEL, Cut, Reply, ask, request

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 60
HEALTH = request("GET", "/health")


class StartFailed(Exception):
    """The server ended or was not ready in time; the message has its status and the end of its log."""


@dataclass(slots=True)
class Running:
    """A server, and what the kernel says about it."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path
    scratch: Path  # its temporary folder
    started: list[int] = field(default_factory=list)  # its processes, while it was well
    shared_before: frozenset[str] = field(default_factory=lambda: frozenset(shared_memory()))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, raw: bytes, timeout: float = 20) -> Reply:
        return ask(self.port, raw, timeout)

    def get(self, path: str, timeout: float = 20) -> Reply:
        return self.ask(request("GET", path), timeout)

    def healthy(self, timeout: float = 20) -> bool:
        """Whether it says so, in time."""
        try:
            return self.ask(HEALTH, timeout).status == 200
        except (OSError, Cut):
            return False

    def metric(self, name: str, **labels: str) -> float:
        """Sum of all samples of one name whose labels include `labels`."""
        page = self.get("/metrics").body.decode()
        samples = (one for family in text_string_to_metric_families(page) for one in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def children(self) -> list[int]:
        """Its HTTP processes, in the order they were started."""
        pid = self.process.pid
        with suppress(OSError):
            return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def pids(self) -> list[int]:
        return [self.process.pid, *self.children()]

    def memory(self, line: str = "VmRSS") -> int:
        """Bytes resident in all its processes (`VmHWM`: at most, since `forget_peak`)."""
        return sum(_status_bytes(pid, line) for pid in self.pids())

    def forget_peak(self) -> None:
        """Let the kernel count the most resident memory anew (proc(5), clear_refs)."""
        for pid in self.pids():
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def cpu_seconds(self) -> float:
        """Processor time of all its processes so far."""
        return sum(cpu_seconds_of(pid) for pid in self.pids())

    def log(self) -> list[dict[str, Any]]:
        """Every line it has logged, each of which must be JSON."""
        return [json.loads(line) for line in self.log_file.read_bytes().splitlines() if line.strip()]

    def tracebacks(self) -> int:
        return self.log_file.read_bytes().count(b"Traceback (most recent call last)")

    def stop(self, timeout: float = 45) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def survivors(self) -> list[int]:
        """Those of its processes that run though it has ended."""
        return [pid for pid in self.started if _runs(pid)]

    def end(self) -> None:
        """End every process of it, whatever state it is in."""
        for pid in {*self.started, *self.children()}:
            if _runs(pid) and pid != self.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.alive:
            self.process.kill()
        self.process.wait(30)


def shared_memory() -> set[str]:
    """Names of all shared memory on this machine (shm_overview(7))."""
    folder = Path("/dev/shm")
    return {one.name for one in folder.iterdir()} if folder.is_dir() else set()


def cpu_seconds_of(pid: int) -> float:
    """Processor time of one process so far; 0 where there is none."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _status_bytes(pid: int, line: str) -> int:
    with suppress(OSError):
        for one in Path(f"/proc/{pid}/status").read_text().splitlines():
            if one.startswith(line + ":"):
                return int(one.split()[1]) * 1024
    return 0


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(
    folder: Path,
    *,
    repository: Path = ROOT / "repository",
    models: str | None = MODEL,
    prefix: Sequence[str] = (),
    start_seconds: float = START_SECONDS,
    port: int | None = None,
    module: Sequence[str] = ("service.cli", "serve"),
    **settings: object,
) -> Iterator[Running]:
    """Run `heed serve` until the block ends. Its log and its temporary files are in `folder`.

    `prefix` is a command that starts it (`prlimit …`); `settings` are those of the server, by name. No
    process of it is left behind. Raises StartFailed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    port = port or free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEED_")}
    environment |= {"TMPDIR": str(scratch), "HEED_MODEL_REPOSITORY": str(repository)}
    if models:
        environment["HEED_MODELS"] = models
    environment |= {f"HEED_{name.upper()}": str(value) for name, value in settings.items()}
    command = [*prefix, sys.executable, "-m", *module, "--port", str(port)]
    log_file = folder / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    server = Running(process, port, log_file, scratch)
    try:
        wait_until_ready(server, start_seconds)
        server.started = server.pids()
        yield server
    finally:
        server.end()


def wait_until_ready(server: Running, seconds: float) -> None:
    """Ask until it says that it is well; raises StartFailed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not server.alive:
            raise StartFailed(f"status {server.process.returncode}: {server.log_file.read_text()[-1500:]}")
        if server.healthy(2):
            return
        time.sleep(0.05)  # polling a process that gives no other sign
    raise StartFailed(f"not ready after {seconds} s: {server.log_file.read_text()[-1500:]}")
