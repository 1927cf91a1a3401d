"""`head_sets.json` written: new sets beside those that are there, whole or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from models.config import read_json
from models.errors import SpecError
from models.heads.reading import FILE, TENSOR, Sizes, declared_sets, resolved
from models.regular_files import is_there


def write_head_sets(
    folder: Path,
    added: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, NDArray[np.floating[Any]]],
    *,
    sizes: Sizes,
    force: bool = False,
) -> None:
    """Add sets, as head_sets.json has them, to those of a folder; `tables` [L, H] by the names of sets.

    A set with a table is given a file of its own. `force` lets one take the place of another of its name.
    Raises SpecError, and leaves the folder as it was, for a name that is taken and for what is not of this
    model.
    """
    there = read_json(folder / FILE) if is_there(folder / FILE) else {}
    taken = [name for name in added if name in there]
    if taken and not force:
        raise SpecError(f"{folder.name} has a head set {taken[0]} already; give another name, or --force")
    bodies = {name: dict(body) for name, body in added.items()}
    for name in tables:
        bodies[name]["file"] = f"heads.{name}.safetensors"
    whole = {**there, **bodies}
    declared = declared_sets(whole)
    for name in bodies:
        resolved(name, declared[name], tables.get(name), sizes)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".heads-") as scratch:
        made = Path(scratch)
        files = {
            bodies[name]["file"]: save({TENSOR: np.ascontiguousarray(table, np.float32)})
            for name, table in tables.items()
        }
        for file, body in {**files, FILE: _lines(whole).encode()}.items():  # it last, for it names the others
            _write(made / file, body)
            (made / file).replace(folder / file)


def _lines(sets: Mapping[str, Any]) -> str:
    """Return the file's text, a line a set."""
    lines = ",\n ".join(f"{json.dumps(name)}: {json.dumps(body)}" for name, body in sets.items())
    return f"{{{lines}}}\n"


def _write(path: Path, body: bytes) -> None:
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
