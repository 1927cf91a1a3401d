"""`head_sets.json` of a model folder: read strictly, and resolved against the model that it lies beside.

    {"qr": {"pairs": [[8, 21], [8, 14]], "weights": [0.7, 0.3], "source": "arXiv:2506.09944"},
     "contacts": {"file": "heads.contacts.safetensors", "symmetric": true, "apc": true, "skip": [1, 1],
                  "bias": -0.4, "activation": "sigmoid"}}

Every problem is a SpecError that names the set and the field.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from models.config import LARGEST_FLOAT, build, read_json, shown
from models.errors import SpecError
from models.heads.sets import HeadSet, Pairs
from models.regular_files import is_there, open_file

FILE = "head_sets.json"
TENSOR = "weights"  # of a set's own file, [L, H]
NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)  # begins with a letter: a number in a query is a head
PLAIN = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)  # a file of the folder itself
MOST_SETS = 256
LARGEST_WEIGHTS = 16 << 20  # bytes of a file of weights

Part = Literal["", "decoder", "cross"]
Sizes = Mapping[str, tuple[int, int]]  # layers and heads of the model, by the part of an encoder-decoder one


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredSet:
    """One entry of the file, as it is written: exactly one of `pairs` and `file`.

    `file` is a safetensors file beside it, whose tensor `weights` [L, H] weighs every head of the model.
    `part`: whose heads they are in an encoder-decoder model; nothing: the encoder's. The rest is as in
    HeadSet.
    """

    pairs: tuple[tuple[int, ...], ...] | None = None
    weights: tuple[float, ...] | None = None
    file: str | None = None
    part: Part = ""
    source: str = ""
    symmetric: bool = False
    apc: bool = False
    skip: tuple[int, ...] = (0, 0)
    bias: float = 0.0
    activation: Literal["sigmoid"] | None = None


def read_declared(folder: Path) -> dict[str, DeclaredSet]:
    """Return the sets that a folder declares by their names, none where it has no such file."""
    if not is_there(folder / FILE):
        return {}
    return declared_sets(read_json(folder / FILE))


def declared_sets(written: Mapping[str, Any]) -> dict[str, DeclaredSet]:
    """Return what the file's object declares; raises SpecError."""
    if len(written) > MOST_SETS:
        raise SpecError(f"{FILE} has {len(written)} sets; give at most {MOST_SETS}")
    return {_named(name): _declared(name, body) for name, body in written.items()}


def read_head_sets(folder: Path, sizes: Sizes) -> dict[str, dict[str, HeadSet]]:
    """Return the sets of a folder, resolved against its model, by the part that they are of and by name.

    Raises SpecError for a pair that the model does not have, and weights that are none.
    """
    found: dict[str, dict[str, HeadSet]] = {part: {} for part in sizes}
    for name, declared in read_declared(folder).items():
        table = None
        if declared.file is not None:
            table = read_table(name, folder / declared.file)
        found[declared.part][name] = resolved(name, declared, table, sizes)
    return found


def resolved(
    name: str, declared: DeclaredSet, table: NDArray[np.floating[Any]] | None, sizes: Sizes
) -> HeadSet:
    """Return a declared set of a model of these sizes; `table`: what is in its file. Raises SpecError."""
    if declared.part not in sizes:
        parts = ", ".join(repr(part) for part in sizes)
        raise SpecError(f"{FILE}: {name}.part is {declared.part!r}; the model has {parts}")
    layers, heads = sizes[declared.part]
    if table is None:
        assert declared.pairs is not None
        pairs = _pairs(name, declared.pairs, layers, heads)
        weights = declared.weights
    else:
        if table.shape != (layers, heads):
            raise SpecError(
                f"{FILE}: the {TENSOR} of {name} have shape {list(table.shape)}; the model has "
                f"[{layers}, {heads}], layers and heads"
            )
        pairs = tuple((layer, head) for layer in range(layers) for head in range(heads))
        weights = tuple(table.reshape(-1).tolist())
    first, last = declared.skip
    return HeadSet(
        pairs=pairs,
        weights=weights,
        source=declared.source,
        symmetric=declared.symmetric,
        apc=declared.apc,
        skip=(first, last),
        bias=declared.bias,
        sigmoid=declared.activation == "sigmoid",
    )


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise SpecError(
            f"{FILE}: a set is called {shown(name)}; a name begins with a letter and has letters, digits, "
            "dots, dashes and underscores, at most 64"
        )
    return name


def _declared(name: str, body: Any) -> DeclaredSet:
    """Return one entry, its fields checked against each other."""
    try:
        declared: DeclaredSet = build(DeclaredSet, body, where=f"{name}.")
    except SpecError as problem:
        raise SpecError(f"{FILE}: {problem}") from None

    def wrong(field: str, why: str) -> SpecError:
        return SpecError(f"{FILE}: {name}.{field} {why}")

    if (declared.pairs is None) == (declared.file is None):
        has = "neither pairs nor file" if declared.file is None else "both pairs and file"
        raise SpecError(f"{FILE}: {name} has {has}; give one of them")
    if declared.file is not None and not PLAIN.fullmatch(declared.file):
        raise wrong("file", f"is {shown(declared.file)}; give the name of a safetensors file of this folder")
    if declared.weights is not None:
        if declared.pairs is None:
            raise wrong("weights", "stands beside pairs; with a file they are in it")
        if len(declared.pairs) != len(declared.weights):
            raise wrong(
                "weights", f"has {len(declared.weights)} numbers, and there are {len(declared.pairs)} pairs"
            )
    if len(declared.skip) != 2 or min(declared.skip) < 0:
        raise wrong("skip", "must be two whole numbers, 0 or more: of the first positions, and of the last")
    return declared


def _pairs(name: str, declared: tuple[tuple[int, ...], ...], layers: int, heads: int) -> Pairs:
    """Return pairs counted from 0, checked against the model."""
    if not declared:
        raise SpecError(f"{FILE}: {name}.pairs is empty; give at least one [layer, head]")
    found = []
    for place, pair in enumerate(declared):
        where = f"{FILE}: {name}.pairs[{place}] is {shown(list(pair))}"
        if len(pair) != 2:
            raise SpecError(f"{where}; give [layer, head]")
        layer, head = pair
        if not -layers <= layer < layers:
            raise SpecError(f"{where}; the model has {layers} layers, from {-layers} to {layers - 1}")
        if not 0 <= head < heads:
            raise SpecError(f"{where}; the model has {heads} heads a layer, from 0 to {heads - 1}")
        found.append((layer + layers if layer < 0 else layer, head))
        if len(found) > layers * heads:
            break
    if len(set(found)) != len(found):
        raise SpecError(f"{FILE}: {name}.pairs has the same pair twice; give each once")
    return tuple(found)


def read_table(name: str, path: Path) -> NDArray[np.floating[Any]]:
    """Return the weights in a set's own file; raises SpecError."""
    where = f"{FILE}: {name}.file {path.name}"
    if not is_there(path):
        raise SpecError(f"{where} is missing")
    try:
        with open_file(path) as file:
            body = file.read(LARGEST_WEIGHTS + 1)
        if len(body) > LARGEST_WEIGHTS:
            raise SpecError(f"{where} is over {LARGEST_WEIGHTS} bytes, the limit for weights of heads")
        tensors = load(body)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise SpecError(f"{where} cannot be read: {str(problem)[:120]}") from problem
    table = tensors.get(TENSOR)
    if table is None or table.dtype.kind != "f":
        raise SpecError(f"{where} has no tensor {TENSOR} of floating-point numbers")
    largest = float(np.abs(table).max(initial=0.0))
    if not (math.isfinite(largest) and largest <= LARGEST_FLOAT):
        raise SpecError(f"{where}: {TENSOR} has numbers that are not finite")
    return table
