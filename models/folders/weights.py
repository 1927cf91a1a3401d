"""Tensors from safetensors files, checked name by name and shape by shape, in memory of their own.

Everything that headers can tell is checked before a tensor is read. Only safetensors: never pickle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.config import read_json, shown
from models.errors import SpecError
from models.folders.naming import Naming, Rule
from models.folders.parameters import Shapes, optional_shapes, parameter_shapes
from models.folders.tensor_file import StoredTensor, open_tensors
from models.spec import ModelSpec

TABLES = ("embedding.", "head.weight")  # whose rows are widened as they are read
STORED = {"F64": torch.float32, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MOST_PROBLEMS = 10  # named in one message
MOST_COMPARED = 4096  # rows of a table


@dataclass(frozen=True, slots=True)
class TensorStep:
    """One tensor to read, and the canonical parameters it becomes."""

    name: str
    stored: StoredTensor
    rule: Rule
    targets: tuple[str, ...]


def load_weights(
    path: Path,
    spec: ModelSpec,
    naming: Naming,
    *,
    dtype: torch.dtype | None = None,
    others: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Return every parameter of a model by its canonical name: on the CPU, contiguous, in memory of its own.

    `path` is a safetensors file or the index of a sharded one. `dtype` None keeps each tensor's own (float64
    becomes float32); `others` is that of biases, norms and biases of positions, where it is not `dtype` too:
    they are few, and a processor computes with them as they are. A table of embeddings is then float16 where
    it is nearer to that than to bfloat16. Raises SpecError when a tensor is missing, unexpected, misshapen,
    not floating point, or holds a number that is not finite in the dtype asked for.
    """
    steps = _plan(path, spec, naming)
    return read_tensors(steps, parameter_shapes(spec), heads=spec.heads, dtype=dtype, others=others)


def read_tensors(
    steps: Sequence[TensorStep],
    shapes: Shapes,
    *,
    heads: int,
    dtype: torch.dtype | None,
    others: torch.dtype | None,
) -> dict[str, Tensor]:
    """Return the parameters that planned tensors become; raise SpecError as `load_weights` does."""
    parameters: dict[str, Tensor] = {}
    for file in dict.fromkeys(step.stored.file for step in steps):
        with open_tensors(file) as content:
            for step in steps:
                if step.stored.file != file:
                    continue
                if content.stored.get(step.name) != step.stored:
                    raise SpecError(f"{file.name} has changed while it was read; load the model again")
                pieces = _pieces(content.read(step.name), step, shapes, heads=heads)
                for target, piece in zip(step.targets, pieces, strict=True):
                    kept = kept_as(target, piece.ndim, dtype or STORED[step.stored.dtype], others)
                    if target.startswith(TABLES) and kept == torch.bfloat16 and others is not None:
                        kept = _nearer(piece)
                    parameters[target] = _own(piece, kept, name=target)
    return parameters


def check_weights(path: Path, spec: ModelSpec, naming: Naming) -> None:
    """Raise SpecError unless the headers of the files promise exactly the parameters of the model."""
    _plan(path, spec, naming)


def weight_bytes(
    path: Path,
    *,
    naming: Naming | None = None,
    dtype: torch.dtype | None = None,
    others: torch.dtype | None = None,
) -> int:
    """Return the bytes that the tensors of the files take in memory, from their headers alone.

    With a `naming`, only those that it reads are counted; `dtype` and `others` as in `load_weights`.
    """
    total = 0
    for name, stored in headers(path).items():
        found = None if naming is None else naming.find(name)
        if stored.dtype in STORED and (naming is None or found is not None):
            target = found[1][0] if found else name
            kept = kept_as(target, len(stored.shape), dtype or STORED[stored.dtype], others)
            total += math.prod(stored.shape) * kept.itemsize
    return total


def kept_as(target: str, axes: int, dtype: torch.dtype, others: torch.dtype | None) -> torch.dtype:
    """Return the dtype of a parameter: matrices of linear layers and tables are as narrow as asked."""
    wide = axes < 2 or ".distances." in target or target.startswith("positions.bias.")
    return others if wide and others is not None else dtype


def _header(file: Path) -> dict[str, StoredTensor]:
    with open_tensors(file) as content:
        return content.stored


def headers(path: Path) -> dict[str, StoredTensor]:
    """Return what stands in the file, or in all the shards of an index, by the files' own names.

    Raises SpecError for a file that is not whole, and for an index that does not tell the truth.
    """
    if path.suffix != ".json":
        return _header(path)
    found: dict[str, StoredTensor] = {}
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise SpecError(f"{path.name} has no weight_map")
    for shard in dict.fromkeys(_shard_name(name, path) for name in index.values()):
        for name, stored in _header(path.with_name(shard)).items():
            if index.get(name) != shard:
                raise SpecError(f"{shown(name)} stands in {shard}, but {path.name} says otherwise")
            found[name] = stored
    if absent := [name for name in index if name not in found]:
        raise SpecError(f"{_listed(absent)} of {path.name} stand in no shard")
    return found


def _shard_name(name: object, index: Path) -> str:
    plain = isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name
    if not isinstance(name, str) or not plain or name.startswith(".") or "\\" in name or "\0" in name:
        raise SpecError(f"{index.name} names the shard {shown(name)}; it must be a file beside it")
    return name


def _plan(path: Path, spec: ModelSpec, naming: Naming) -> list[TensorStep]:
    """Decide what every tensor of the files becomes; raise SpecError naming all that does not fit."""
    required, optional = parameter_shapes(spec), optional_shapes(spec)
    known = required | optional
    steps: list[TensorStep] = []
    given: dict[str, str] = {}
    problems: list[str] = []
    for name, stored in headers(path).items():
        if naming.ignores(name):
            continue
        rule, targets = naming.find(name) or (None, ())
        if rule is None or not set(targets) <= set(known):
            problems.append(f"unexpected {shown(name)}")
            continue
        problems += [f"{target} given twice" for target in targets if target in given]
        given |= dict.fromkeys(targets, name)
        problems += misfits(TensorStep(name, stored, rule, targets), known, heads=spec.heads)
        if not set(targets) <= set(optional):
            steps.append(TensorStep(name, stored, rule, targets))
    problems = [
        f"missing {name}, whatever its name in the file" for name in required if name not in given
    ] + problems
    if problems:
        raise SpecError(f"{path.name} does not hold this model: {_listed(problems)}")
    return steps


def misfits(step: TensorStep, known: Shapes, *, heads: int) -> list[str]:
    """Return what is wrong with one tensor's shape and dtype."""
    if step.stored.dtype not in STORED:
        return [f"{shown(step.name)} is stored as {step.stored.dtype}, not as one of {', '.join(STORED)}"]
    shapes = [known[target] for target in step.targets]
    expected = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    even = step.rule.split == "rows" or (len(set(shapes)) == 1 and shapes[0][0] % heads == 0)
    if step.rule.transpose:
        expected = expected[::-1]
    if step.stored.shape == expected and even:
        return []
    return [f"{shown(step.name)} has shape {list(step.stored.shape)}, not {list(expected)}"]


def _pieces(tensor: Tensor, step: TensorStep, shapes: Shapes, *, heads: int) -> tuple[Tensor, ...]:
    """Return the parameters that one stored tensor holds, as views, [out, in] each."""
    turned = tensor.T if step.rule.transpose else tensor
    if len(step.targets) == 1:
        return (turned,)
    if step.rule.split == "rows":
        return torch.split(turned, [shapes[target][0] for target in step.targets])
    parts, rest = len(step.targets), turned.shape[1:]
    by_head = turned.reshape(heads, parts, -1, *rest)
    return tuple(by_head[:, part].reshape(-1, *rest) for part in range(parts))


def _own(piece: Tensor, dtype: torch.dtype, *, name: str) -> Tensor:
    """Return a parameter in the dtype asked for, contiguous; a part of a larger tensor is copied out."""
    whole = piece.is_contiguous() and piece.nbytes == piece.untyped_storage().nbytes()
    tensor = piece.to(dtype) if whole else torch.empty(piece.shape, dtype=dtype).copy_(piece)
    low, high = tensor.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        kind = str(dtype).removeprefix("torch.")
        raise SpecError(
            f"{name} holds numbers that are not finite in {kind}; the file is damaged or needs float32"
        )
    return tensor


def _nearer(table: Tensor) -> torch.dtype:
    """Return which of the formats of 16 bits is nearer to a table's rows; they are widened as they are read.

    float16 has three bits more, and ends at 65,504.
    """
    some = table[:MOST_COMPARED].float()
    errors = {one: (some.to(one).float() - some).square().sum() for one in (torch.float16, torch.bfloat16)}
    fits = float(table.abs().max()) <= torch.finfo(torch.float16).max
    return torch.float16 if fits and errors[torch.float16] < errors[torch.bfloat16] else torch.bfloat16


def _listed(problems: list[str]) -> str:
    more = len(problems) - MOST_PROBLEMS
    return ", ".join(problems[:MOST_PROBLEMS]) + (f" and {more} more" if more > 0 else "")
