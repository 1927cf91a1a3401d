"""What this process may use: memory, so that a model that does not fit is refused unread, and cores."""

from pathlib import Path

import torch

from models.device.graphs import kept_bytes
from models.errors import SpecError

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")  # version 2: what a container may use


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be taken on a device; None where nothing tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        held = max(0, int(held) - kept_bytes())  # what graphs use looks free, and nobody else is given it
        return int(free) + held  # the allocator gives back what it holds free before it gives up
    known = [one for one in (_of_machine(), _of_group()) if one is not None]
    return min(known, default=None)


def granted_cores() -> int | None:
    """Return how many whole cores the container's quota comes to, at least 1; None where there is no quota.

    The kernel stops a process that has used its quota until the next tenth of a second: more threads than it
    pays for do nothing faster, and all of them stand still together.
    """
    try:
        quota, period = (GROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    if not (quota.isdigit() and period.isdigit() and int(period)):  # "max": none
        return None
    return max(1, int(quota) // int(period))


def require_room(nbytes: int, device: torch.device, *, what: str) -> None:
    """Raise SpecError unless `nbytes` can still be taken on a device."""
    free = available_bytes(device)
    if free is not None and nbytes > free:
        raise SpecError(
            f"{what} needs {nbytes} bytes on {device}, where {free} are free; unload a model, choose a "
            "narrower dtype or give it more memory"
        )


def _of_machine() -> int | None:
    """Return the kernel's own estimate, MemAvailable, in bytes."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _of_group() -> int | None:
    """Return what the container's limit leaves; memory of files that can be dropped counts as free."""
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not limit.isdigit():
        return None
    return max(0, int(limit) - used + int(counts.get("inactive_file", 0)))
