"""What a running server keeps in the temporary folder, and what earlier ones that were killed left there.

Whoever is alive holds a lock (flock(2)) on a file of theirs, which the kernel frees when the last of their
processes dies, in whatever way: what can be locked is nobody's any more, and of several that try at once one
gets it. Process ids would not do: containers that share a folder count them apart. Shared memory needs no
sweeping: it has no name (memfd_create(2)), and goes with the last process that has it open.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.metrics.sharing import reserve

PREFIX = "heed-metrics-"
LOCK = "lock"
LONGEST = 4096  # bytes of a marker
POLL_SECONDS = 0.01

log = logging.getLogger(__name__)


class NoRoom(Exception):
    """The temporary folder cannot be written, or is full; says which one it is, and what to do."""

    def __init__(self, what: object) -> None:
        super().__init__(
            f"no metrics of several HTTP processes can be kept in the temporary folder ({what}); free some "
            "of it, set TMPDIR to another, or leave HTTP_WORKERS at 1"
        )


class MetricsFolder:
    """A folder for the metrics of several processes; making one sweeps those whose server has died.

    `lock` is a descriptor for the other processes to be born with: the folder is theirs as well.
    Raises NoRoom.
    """

    def __init__(self) -> None:
        sweep()
        while True:
            try:
                self.path = tempfile.mkdtemp(prefix=PREFIX)
                lock = _locked(Path(self.path, LOCK), make=True)
            except OSError as error:
                raise NoRoom(error) from None
            if lock is not None:
                self.lock = lock
                return  # else another server that starts took it for an old one in between

    def reserve(self, process: int) -> None:
        """Make the files of a process before it opens them; raises NoRoom."""
        try:
            reserve(self.path, process)
        except OSError as error:
            raise NoRoom(f"{self.path}: {error.strerror}") from None

    def remove(self) -> None:
        """Remove the folder and what is in it, whoever else still lives."""
        if self.lock >= 0:
            _remove(Path(self.path))
            os.close(self.lock)
            self.lock = -1


def sweep() -> None:
    """Remove the metrics folders of this user's dead servers; those without a lock are not judged."""
    with suppress(OSError):
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):
                if not folder.is_symlink() and folder.stat().st_uid == os.getuid() and _swept(folder):
                    log.info("swept what an earlier run left", extra={"fields": {"folder": folder.name}})


def sweep_when_last(path: str, lock: int, *, within_seconds: float) -> None:
    """Let go of a metrics folder, and remove it once no other process of its server lives.

    Those that end at the same time all wait for the first process to be gone, which takes a moment when it
    is killed, and whichever gets the lock first removes the folder. Where another lives on after
    `within_seconds`, it is left to that one.
    """
    os.close(lock)
    until = time.monotonic() + within_seconds
    with suppress(OSError):  # another has removed it
        while not _swept(Path(path)) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def _swept(folder: Path) -> bool:
    """Remove a metrics folder if no process holds its lock; raise OSError where it, or its lock, is gone."""
    held = _locked(folder / LOCK)
    if held is None:
        return False
    _remove(folder)
    os.close(held)
    return True


def _remove(folder: Path) -> None:
    """Remove a metrics folder, its lock last: should this process die on the way, it can still be judged."""
    with suppress(OSError):
        for file in folder.iterdir():
            if file.name != LOCK:
                file.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


class RunMarker:
    """A file that stands in the temporary folder while a server runs; only a server's own end removes it.

    One for each address and model repository. Where the folder cannot be written, or is new at every start,
    nothing is noticed and nothing is said.
    """

    def __init__(self, *, host: str, port: int, repository: Path) -> None:
        name = hashlib.sha256(f"{host}\0{port}\0{repository.absolute()}".encode()).hexdigest()[:16]
        try:
            folder = tempfile.gettempdir()
        except OSError:  # none can be written, and nothing is opened below this one
            folder = os.devnull
        self._path = Path(folder, f"heed-run-{os.getuid()}-{name}")
        self._lock: int | None = None

    def begin(self) -> None:
        """Say in the log when the last run did not end by itself, and mark this one."""
        with suppress(OSError):
            before = self._read()
            self._lock = _locked(self._path, make=True)
            if self._lock is None:
                return  # another server lives on the same port, 0
            if before is not None:
                told = "the last run did not end by itself; it was killed, as for want of memory, or crashed"
                log.warning(told, extra={"fields": before})
            os.ftruncate(self._lock, 0)
            began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            os.pwrite(self._lock, json.dumps({"began": began, "process": os.getpid()}).encode(), 0)

    def end(self) -> None:
        """Remove the mark: whatever the status, the server has ended by itself and could say why."""
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _read(self) -> dict[str, Any] | None:
        """Return what the last run wrote, if it is there and this user's."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if os.fstat(file).st_uid != os.getuid():
                return None
            written = json.loads(os.read(file, LONGEST))
            return {"began": str(written["began"])[:32], "process": int(written["process"])}
        except (ValueError, KeyError, TypeError):  # killed while it wrote
            return {}
        finally:
            os.close(file)


def _locked(file: Path, *, make: bool = False) -> int | None:
    """Return a descriptor that holds the lock of a file; None: another holds it. `make` one if need be."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(file, flags | (os.O_CREAT if make else 0), 0o600)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
    except OSError:  # held, or removed in between
        pass
    os.close(descriptor)
    return None
