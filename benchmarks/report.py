"""Keeps raw results: one JSON file a benchmark in `benchmarks/results/`, with the machine and the date.

Or in the folder that `OUT` names, where that is what a machine gives back.
"""

import dataclasses
import datetime
import json
import os
import platform
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def save(name: str, result: object) -> Path:
    """Write a result beside what it was measured on; returns the file."""
    folder = Path(os.environ["OUT"]) if os.environ.get("OUT") else RESULTS
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    machine = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    file.write_text(json.dumps({"machine": machine, "result": result}, indent=1, default=_plain) + "\n")
    return file


def _processor() -> str:
    """Return its name, with family and model: one name is sold of several generations."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.machine()
    more = [
        f"{name.removeprefix('cpu ')} {fields[name]}" for name in ("cpu family", "model") if name in fields
    ]
    return ", ".join([fields["model name"], *more])


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(type(value).__name__)
