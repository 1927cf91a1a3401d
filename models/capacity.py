"""How much memory a device has left, so that a model that does not fit is refused before it is loaded."""

from pathlib import Path

import torch

from models.errors import SpecError

__all__ = ["available_bytes", "require_room"]

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")  # version 2: what a container may use


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that can still be taken on a device; None where nothing tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    known = [one for one in (_of_machine(), _of_group()) if one is not None]
    return min(known, default=None)


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
