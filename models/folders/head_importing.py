"""`heed heads import`: a head set out of anybody's file into a model folder, checked against its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import SpecError
from models.folders.families import read_folder
from models.folders.head_tables import HeadTable, read_contact_head, read_estimator, sizes_of
from models.heads.formats import ForeignSet, read_foreign, read_json_or_list
from models.heads.reading import Sizes, declared_sets, read_table
from models.heads.writing import write_head_sets

TORCH = (".pt", ".pth", ".bin", ".ckpt")
TENSORS = (".safetensors", ".safetensors.index.json")

Table = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToImport:
    """What a person says of a file that the file does not: see `heed heads import --help`."""

    name: str | None = None
    part: str | None = None
    top: int | None = None
    weighted: bool = False
    source: str | None = None
    force: bool = False


def import_heads(file: Path, folder: Path, how: HowToImport) -> tuple[str, ...]:
    """Put what a file holds among a folder's head sets; return the names, or raise SpecError."""
    if not folder.is_dir():
        raise SpecError(f"{folder.name} is no folder on this machine")
    sizes = sizes_of(read_folder(folder))
    file = read_folder(file).weights if file.is_dir() else file
    added, tables = _read(file, how, sizes)
    if how.source is not None:
        added = {name: {**body, "source": how.source} for name, body in added.items()}
    write_head_sets(folder, added, tables, sizes=sizes, force=how.force)
    return tuple(added)


def _read(file: Path, how: HowToImport, sizes: Sizes) -> tuple[dict[str, dict[str, Any]], dict[str, Table]]:
    """Return sets as head_sets.json has them, and weights of all heads [L, H], by their names."""
    if file.name.endswith(TORCH + TENSORS):
        table = read_estimator(file) if file.name.endswith(TORCH) else read_contact_head(file)
        name = how.name or table.name
        return {name: _of_table(table, how)}, {name: _shaped(table, how.part or "", sizes, file)}
    if file.suffix == ".json" and _is_ours(written := read_json_or_list(file)):
        return _ours(written, file, how)
    foreign = read_foreign(file).best(how.top)
    name = how.name or foreign.name
    if not name:
        raise SpecError(f"{file.name} does not say what the set is; give it a name, --name NAME")
    return {name: _of_foreign(foreign, how, sizes)}, {}


def _is_ours(written: Any) -> bool:
    """Whether a json file is a head_sets.json."""
    return (
        isinstance(written, dict)
        and bool(written)
        and all(isinstance(body, dict) and ("pairs" in body or "file" in body) for body in written.values())
    )


def _ours(
    written: Mapping[str, Any], file: Path, how: HowToImport
) -> tuple[dict[str, dict[str, Any]], dict[str, Table]]:
    """Return the sets of another folder, or the one that is named."""
    declared = declared_sets(written)
    if how.name is not None:
        if how.name not in declared:
            raise SpecError(f"{file.name} has no set {how.name}; it has {', '.join(declared)}")
        declared = {how.name: declared[how.name]}
    added = {name: dict(written[name]) for name in declared}
    tables = {}
    for name, one in declared.items():
        if one.file is not None:
            tables[name] = read_table(name, file.parent / one.file).astype(np.float32)
            del added[name]["file"]
    return added, tables


def _of_foreign(foreign: ForeignSet, how: HowToImport, sizes: Sizes) -> dict[str, Any]:
    body: dict[str, Any] = {"pairs": [list(pair) for pair in foreign.pairs]}
    if how.weighted:
        if foreign.scores is None:
            raise SpecError("this file has no scores to be weights; leave --weighted")
        body["weights"] = list(foreign.scores)
    part = how.part if how.part is not None else "cross" if foreign.cross and "cross" in sizes else ""
    return body | ({"part": part} if part else {}) | ({"source": foreign.source} if foreign.source else {})


def _of_table(table: HeadTable, how: HowToImport) -> dict[str, Any]:
    body: dict[str, Any] = {"source": table.source}
    if how.part:
        body["part"] = how.part
    if table.bias:
        body["bias"] = table.bias
    if table.contacts:
        body |= {"symmetric": True, "apc": True, "skip": [1, 1], "activation": "sigmoid"}
    return body


def _shaped(table: HeadTable, part: str, sizes: Sizes, file: Path) -> Table:
    """Return weights as [L, H] of the part of the model that they are for."""
    if part not in sizes:
        raise SpecError(f"the model has no part {part}; it has {', '.join(repr(one) for one in sizes)}")
    layers, heads = sizes[part]
    if table.weights.size != layers * heads:
        raise SpecError(
            f"{file.name} weighs {table.weights.size} heads; the model has {layers} layers of {heads} heads, "
            f"{layers * heads}"
        )
    return table.weights.reshape(layers, heads)
