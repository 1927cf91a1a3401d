"""How much memory the process may use, and how much of it requests get where the operator does not say.

Before the first station of the request line. Sources: cgroups(7); Linux, Documentation/admin-guide,
`cgroup-v2.rst` (memory.max) and `cgroup-v1/memory.rst` (memory.limit_in_bytes); getrlimit(2); proc(5).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MIB = 1 << 20
LEAST_BYTES = 32 * MIB
SHARE = 2  # half of what is free goes to requests; the rest is for computing, allocators and what else grows
PROCESS_BYTES = 160 * MIB  # of an HTTP process that has just begun
UNLIMITED = 1 << 60  # cgroup v1 writes no limit as the largest multiple of a page


def default_budget(*, processes: int = 0, root: Path = Path("/")) -> int:
    """Return half of what is granted and not yet in use, once the models are loaded; at least 32 MiB.

    `processes`: how many HTTP processes there will be beside this one.
    """
    status = _status(root)
    beside = processes * PROCESS_BYTES
    left = [granted - status.get("VmRSS", 0) - beside for granted in (_machine(), *_groups(root))]
    space = _address_space()
    if space is not None:
        left.append(space - status.get("VmSize", 0))
    return max(LEAST_BYTES, min(left) // SHARE)


def _machine() -> int:
    """Return the bytes of physical memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not said on this system
        return UNLIMITED


def _address_space() -> int | None:
    """Return the bytes of addresses that this process may use (RLIMIT_AS), None without a limit."""
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _groups(root: Path) -> Iterator[int]:
    """Give the limits of the control groups that this process is in, those above it included."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _limits(root / "sys/fs/cgroup", path, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _limits(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _limits(mount: Path, path: str, name: str) -> Iterator[int]:
    group = mount / path.lstrip(
        "/"
    )  # in a container of its own the path may not be there, and the root is it
    for folder in (group, *group.parents):
        if folder == mount.parent:
            break
        with suppress(OSError, ValueError):  # no such file, or `max`
            yield min(int((folder / name).read_text()), UNLIMITED)


def _status(root: Path) -> dict[str, int]:
    """Return what /proc/self/status says in kB, in bytes."""
    found: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.split()[0]) * 1024
    return found
