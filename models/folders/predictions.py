"""What a folder's files hold for predicting words: planned from their headers, and read where it is wanted.

A model is served without it, so whatever is wrong with it is told as a reason and refuses nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.errors import SpecError
from models.folders.naming import Naming, Rule
from models.folders.parameters import prediction_shapes
from models.folders.tensor_file import StoredTensor
from models.folders.weights import STORED, TensorStep, headers, kept_as, misfits, read_tensors
from models.spec import ModelSpec

NO_WORDS = "it has no embedding table, and so no words"


@dataclass(frozen=True, slots=True)
class PredictionPlan:
    """Tensors to read beside a model's own; none where a tied table is all that is needed."""

    steps: tuple[TensorStep, ...]

    def nbytes(self, *, dtype: torch.dtype | None, others: torch.dtype | None) -> int:
        """Return the bytes that they take in memory, `dtype` and `others` as in `load_weights`."""
        return sum(
            math.prod(step.stored.shape)
            * kept_as(
                step.targets[0], len(step.stored.shape), dtype or STORED[step.stored.dtype], others
            ).itemsize
            for step in self.steps
        )

    def read(
        self, spec: ModelSpec, *, dtype: torch.dtype | None, others: torch.dtype | None
    ) -> dict[str, Tensor]:
        """Return the parameters by their canonical names; raise SpecError where numbers are not finite."""
        shapes = prediction_shapes(spec)
        return read_tensors(self.steps, shapes, heads=spec.heads, dtype=dtype, others=others)


def plan_predictions(path: Path, spec: ModelSpec, naming: Naming, *, asked: bool) -> PredictionPlan | str:
    """Return what to read of the files to predict words by, or why they cannot be predicted.

    `asked`: whether a table of its own is to be read, which may be as large as the rest of a small model.
    What stands before a tied table is small, and always read.
    """
    if spec.embedding is None:
        return NO_WORDS
    if spec.tied_output and spec.prediction.activation is None and spec.embedding_width != spec.d_model:
        return f"its words are of {spec.embedding_width} numbers, and rows of {spec.d_model}"
    shapes = prediction_shapes(spec)
    found: dict[str, TensorStep] = {}
    for name, stored in headers(path).items():
        target = naming.of_head(name)
        if target in shapes:
            found.setdefault(target, TensorStep(name, stored, Rule(name, (target,)), (target,)))
    if missing := [name for name in shapes if name not in found]:
        return _lacks(missing, spec)
    if wrong := [said for step in found.values() for said in misfits(step, shapes, heads=spec.heads)]:
        return f"{path.name} does not hold what it predicts words by: {', '.join(wrong)}"
    if "head.weight" in shapes and not asked:
        return _unasked(found["head.weight"].stored, found["head.weight"].name)
    return PredictionPlan(tuple(found.values()))


def predictions_of(
    plan: PredictionPlan | str, spec: ModelSpec, *, dtype: torch.dtype | None, others: torch.dtype | None
) -> Mapping[str, Tensor] | str:
    """Return what is planned, read; or why there is none."""
    if isinstance(plan, str):
        return plan
    try:
        return plan.read(spec, dtype=dtype, others=others)
    except SpecError as problem:
        return str(problem)


def _lacks(missing: list[str], spec: ModelSpec) -> str:
    if missing == ["head.weight"]:
        return "its file holds no output table: the model was saved without what predicts words"
    kind = "masked-language head" if spec.prediction.activation is not None else "output table and its bias"
    return f"its file does not hold the whole {kind}: {', '.join(missing)} is missing"


def _unasked(stored: StoredTensor, name: str) -> str:
    words, width = stored.shape
    return (
        f"its output table, {name} of {words} words by {width} numbers ({stored.nbytes / 2**20:.0f} MiB), is "
        'not loaded; serve with --predictions, or put "predictions": true into its config.json'
    )
