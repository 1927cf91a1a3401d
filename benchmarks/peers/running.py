"""A peer's server as processes: started in a session of their own, watched until ready, ended to the last."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 180
STOP_SECONDS = 20
TAIL_BYTES = 1500


class StartFailed(Exception):
    """A server ended or was not ready in time; the message ends with what it last wrote."""


@contextmanager
def running(command: list[str], *, ready: str, folder: Path) -> Iterator[int]:
    """Run a server until the block ends; yields its process id once `GET ready` answers 200."""
    with tempfile.TemporaryFile() as written:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if not _becomes_ready(process, ready):
                written.seek(max(0, written.seek(0, os.SEEK_END) - TAIL_BYTES))
                raise StartFailed(written.read().decode(errors="replace"))
            yield process.pid
        finally:
            _end(process)


@contextmanager
def piped(command: list[str]) -> Iterator[tuple[int, str, Callable[[str], str]]]:
    """Run an encoder that is asked by lines; yields its process id, its first line, and how to ask.

    Raises StartFailed where it ends before it has answered, with what it last wrote.
    """
    with tempfile.TemporaryFile() as written:
        process = subprocess.Popen(
            command,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        asked, told = process.stdin, process.stdout

        def answer() -> str:
            line = told.readline()
            if not line:
                written.seek(max(0, written.seek(0, os.SEEK_END) - TAIL_BYTES))
                raise StartFailed(f"ended without an answer: {written.read().decode(errors='replace')}")
            return line

        def ask(question: str) -> str:
            asked.write(f"{question}\n")
            asked.flush()
            return answer()

        try:
            yield process.pid, answer(), ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                asked.close()
            process.terminate()
            process.wait(timeout=60)


def _becomes_ready(process: subprocess.Popen[bytes], ready: str) -> bool:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(ready, timeout=2),
        ):
            return True
        time.sleep(0.2)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole session to end, then make it; some peers put workers into groups of their own."""
    family = _family(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_SECONDS)
    for pid, started in family.items():
        if _started(pid) == started:  # still the process we know, not another with its number
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait(timeout=STOP_SECONDS)


def free_port() -> int:
    """Return a port of the loopback address that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def post(url: str, content_type: str, content: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the body of the reply to one POST; raise HTTPError unless it is 2xx."""
    request = urllib.request.Request(url, content, {**headers, "Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=60) as reply:
        body: bytes = reply.read()
        return body


def resident_mb(pid: int) -> float:
    """Return the memory of a process and all below it in MiB, shared pages counted once (PSS)."""
    total = 0
    for member in _family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def _family(pid: int) -> dict[int, str]:
    """Return a process and all that descend from it, each with when it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    family = {pid}
    while True:
        more = {child for child, parent in parents.items() if parent in family} - family
        if not more:
            return {member: _started(member) for member in family}
        family |= more


def _started(pid: int) -> str:
    try:
        return _stat(pid)[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
