"""Limits of memory and descriptors for a server: by a control group where one may be made, else `prlimit`."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ADDRESS_SPACE_OVER_RESIDENT = 4 << 30  # what torch's libraries and threads' stacks map and do not touch


@dataclass(frozen=True, slots=True)
class Limited:
    """How a server is to be started, and in words by what it is limited."""

    prefix: Sequence[str]
    by: str


def descriptors(most: int) -> list[str]:
    """Start what follows with at most so many open files."""
    return ["prlimit", f"--nofile={most}:{most}", "--"]


@contextmanager
def memory(limit_bytes: int, name: str) -> Iterator[Limited]:
    """Limit resident memory by a control group of our own, or where none may be made, the address space."""
    group = _make_group(limit_bytes, name)
    if group is None:
        most = limit_bytes + ADDRESS_SPACE_OVER_RESIDENT
        yield Limited(["prlimit", f"--as={most}", "--"], f"prlimit --as={most >> 20} MiB")
        return
    shell = shutil.which("sh") or "/bin/sh"
    try:
        join = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        yield Limited([shell, "-c", join, "sh"], f"a control group of {limit_bytes >> 20} MiB")
    finally:
        with suppress(OSError):
            group.rmdir()


def _make_group(limit_bytes: int, name: str) -> Path | None:
    """Make a group under the one that we are in; None where that is not permitted."""
    parent = _own_group()
    if parent is None:
        return None
    group = parent / f"heed-{name}-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return None
    file = "memory.limit_in_bytes" if (group / "memory.limit_in_bytes").exists() else "memory.max"
    try:
        (group / file).write_text(str(limit_bytes))
        if not os.access(group / "cgroup.procs", os.W_OK):
            raise PermissionError
    except OSError:
        group.rmdir()
        return None
    return group


def _own_group() -> Path | None:
    """The folder of the memory controller's group that this process is in (cgroups(7))."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            root = Path("/sys/fs/cgroup/memory" if controllers == "memory" else "/sys/fs/cgroup")
            own = root / path.lstrip("/")
            delegated = controllers == "" and "memory" in _words(own / "cgroup.subtree_control")
            if own.is_dir() and (controllers == "memory" or delegated):
                return own
    return None


def _words(file: Path) -> list[str]:
    with suppress(OSError):
        return file.read_text().split()
    return []
