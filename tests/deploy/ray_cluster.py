"""A small Ray of a test, from an environment of its own: `ray start`, `serve run`, and all of it ended."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent.parent
RAY = ROOT / ".cache" / "ray"
START_SECONDS = 120
OBJECT_BYTES = 100_000_000  # nothing of a request is kept there


def until(what: Callable[[], object], seconds: float = START_SECONDS) -> None:
    """Ask again and again whether something is so; nothing else tells."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to be so in time"
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Ray:
    """One node of two cores, and all processes that come of it."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="heed-ray-", dir="/tmp"))  # sockets have short paths
        self.mark = uuid.uuid4().hex
        self.port, self.metrics_port, self.proxy_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.proxy_port}"
        self.log = self.folder / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HEED_", "RAY_"))}
        self.environ = {
            **clean,
            "PYTHONPATH": f"{RAY}:{ROOT}",
            "RAY_TEST_MARK": self.mark,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_metrics_report_interval_ms": "4000",  # numbers given every 5 s are kept for twice as long
            **environ,
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        node = ["ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"]
        node += [f"--port={self.port}", f"--metrics-export-port={self.metrics_port}"]
        node += [f"--object-store-memory={OBJECT_BYTES}", "--include-dashboard=false"]
        node += [f"--temp-dir={self.folder}", "--disable-usage-stats"]
        self.begin(*node)
        self.environ["RAY_ADDRESS"] = f"127.0.0.1:{self.port}"
        until(lambda: "Ray runtime started" in self.log.read_text() or self._ended())
        assert not self._ended(), self.log.read_text()[-3000:]

    def serve(self, text: str) -> None:
        """`serve run` what a file says, with the proxy on a port of its own."""
        self.begin("ray.serve.scripts", "run", str(self._mine(text)))
        until(lambda: self.answers("/health") or self._ended())
        assert not self._ended(), self.log.read_text()[-3000:]

    def apply(self, text: str) -> None:
        """Have what is served be as another file says; return when that is asked for."""
        command = [sys.executable, "-m", "ray.serve.scripts", "run", "--non-blocking", str(self._mine(text))]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]

    def begin(self, module: str, *words: str) -> None:
        """Start a module beside, in the environment of the node."""
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                env=self.environ,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes.append(process)

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def replicas(self, application: str = "heed") -> set[int]:
        """Return the processes of an application's replicas."""
        title = f"ray::ServeReplica:{application}:"
        return {number for number in self._pids() if title in _title(number)}

    def servers(self) -> set[int]:
        """Return the processes that requests pass through: proxies and replicas."""
        titles = ("ray::ProxyActor", "ray::HAProxy", "ray::ServeReplica", "/haproxy ")
        return {number for number in self._pids() if any(title in _title(number) for title in titles)}

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10).text

    def stop(self) -> None:
        """End every process that came of those started here; none has anything to finish."""
        end = time.monotonic() + 30
        started = {process.pid for process in self._processes}
        found = started | self._pids()
        while alive := {number for number in found if _is_alive(number)}:
            found |= _descendants(alive) | self._pids()
            for number in found:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            for process in self._processes:
                process.poll()
            assert time.monotonic() < end, found
            time.sleep(0.02)
        for process in self._processes:
            process.wait(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _mine(self, text: str) -> Path:
        """Write a file of Ray Serve's with the port of this node."""
        assert "port: 8000" in text
        file = self.folder / f"{uuid.uuid4().hex}.yaml"
        file.write_text(text.replace("port: 8000", f"port: {self.proxy_port}"))
        return file

    def _ended(self) -> bool:
        return any(process.poll() is not None for process in self._processes)

    def _pids(self) -> set[int]:
        """Return the processes that have the mark in their environment, or are of one that has."""
        mark = f"RAY_TEST_MARK={self.mark}".encode()
        found = set()
        for number in _numbers():
            with suppress(OSError):  # it is gone, or another's
                if mark in Path(f"/proc/{number}/environ").read_bytes():
                    found.add(number)
        return found | _descendants(found)


def _numbers() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _descendants(parents: set[int]) -> set[int]:
    """Return all that came of some processes: a title written over the environment hides the mark."""
    parent_of: dict[int, int] = {}
    for number in _numbers():
        with suppress(OSError):
            parent_of[number] = int(_state(number)[1])
    found: set[int] = set()
    while more := {one for one, parent in parent_of.items() if parent in parents | found} - found:
        found |= more
    return found


def _state(number: int) -> list[str]:
    """Return the fields of a process's /proc entry behind its name: its state, its parent, …"""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()


def processor_seconds(number: int) -> float:
    """Return what a process has used of the processor so far."""
    fields = _state(number)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_alive(number: int) -> bool:
    try:
        return _state(number)[0] != "Z"
    except OSError:
        return False


def _title(number: int) -> str:
    try:
        return Path(f"/proc/{number}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
