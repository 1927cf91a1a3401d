"""One vector from the rows of a sequence, and what follows it, as sentence-transformers' modules do.

T rows, D d_model; everything is computed in float32, whatever the weights are kept in.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import shown
from models.device.staging import to_device
from models.errors import SpecError
from models.folders.sentence_files import SentenceFiles
from models.folders.tensor_file import open_tensors
from models.pooling_spec import PoolingSpec, PoolingStep

NORM_EPS = 1e-5  # of torch.nn.LayerNorm, which sentence-transformers takes as it is
NAMES = {"dense": "linear", "layer_norm": "norm"}  # of a module's parameters in its file


class Pooling:
    """A specification and the parameters of its steps: `steps.N.weight`, `.bias`, `.residual`."""

    def __init__(self, spec: PoolingSpec, parameters: dict[str, Tensor] | None = None) -> None:
        self.spec = spec
        self._parameters = parameters or {}
        self._rows_alike = bool(spec.steps) and all(step.kind == "normalize" for step in spec.steps)
        self._activations: list[Any] = [getattr(nn, step.activation)() for step in spec.steps]

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters."""
        return sum(tensor.nbytes for tensor in self._parameters.values())

    def __call__(self, hidden_TD: Tensor, mask: Tensor | None = None, *, prompt: int = 0) -> Tensor:
        """Return the sentence embedding of one sequence.

        A mask of rank 1, bool [T], picks rows. `prompt`: how many tokens, from the first that is picked,
        are of a prompt, which is left out where the specification says so. Zeros where no row is left.
        """
        return self._stepped(self._pooled(hidden_TD, mask, prompt))

    def each(
        self, hidden_ND: Tensor, sequences: Sequence[tuple[slice, Tensor | None, int]]
    ) -> Sequence[Tensor] | Tensor:
        """Return the sentence embedding of each of several sequences, given as rows, mask and prompt.

        The masks are on the processor. There, the same bits as of each alone; on a GPU all are made together.
        """
        if hidden_ND.device.type != "cpu" and (made := self._at_once(hidden_ND, sequences)) is not None:
            return made
        pooled = [self._pooled(hidden_ND[rows], mask, prompt) for rows, mask, prompt in sequences]
        if len(pooled) == 1 or not self._rows_alike or hidden_ND.device.type != "cpu":
            return [self._stepped(one) for one in pooled]
        # On a processor a norm of rows is that of each of them. Each vector has memory of its own again, so
        # that whoever is slow to read his holds on to nobody else's.
        return [one.clone() for one in self._stepped(torch.stack(pooled))]

    def _at_once(
        self, hidden_ND: Tensor, sequences: Sequence[tuple[slice, Tensor | None, int]]
    ) -> Tensor | None:
        """Return the embeddings [B, E], None where of a sequence no row is left.

        Sums are of each sequence's rows in their order, so that what is not finite reaches no other.
        """
        chosen = [self._places(rows.stop - rows.start, mask, prompt) for rows, mask, prompt in sequences]
        if any(not len(one) for one in chosen):
            return None
        device, count = hidden_ND.device, len(chosen)
        at = torch.cat(
            [one + rows.start for one, (rows, _, _) in zip(chosen, sequences, strict=True)]
        ).numpy()
        lengths = np.array([len(one) for one in chosen])
        length_B = to_device([lengths], device, torch.int64)
        if at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
            rows_RD = hidden_ND[at[0] : at[-1] + 1].float()
        else:
            rows_RD = hidden_ND.index_select(0, to_device([at], device, torch.int64)).float()

        def summed(x_RD: Tensor, how: str) -> Tensor:
            made: Tensor = torch.segment_reduce(x_RD, how, lengths=length_B, axis=0, unsafe=True)
            return made

        made = []
        for mode in self.spec.modes:
            if mode in ("mean", "max"):
                made.append(summed(rows_RD, mode))
            elif mode == "mean_sqrt_len":
                made.append(summed(rows_RD, "sum") / length_B.sqrt()[:, None])
            elif mode == "weighted_mean":
                firsts = [self._first(mask) for _, mask, _ in sequences]
                weights = [(one - at + 1).float() for one, at in zip(chosen, firsts, strict=True)]
                weights_R = to_device([(one / one.sum()).numpy() for one in weights], device, torch.float32)
                made.append(summed(rows_RD * weights_R[:, None], "sum"))
            else:
                ends = np.cumsum(lengths)
                some = np.append(0, ends[: count - 1]) if mode == "cls" else ends - 1
                made.append(rows_RD.index_select(0, to_device([some], device, torch.int64)))
        return self._stepped(torch.cat(made, dim=1) if len(made) > 1 else made[0])

    def _pooled(self, hidden_TD: Tensor, mask: Tensor | None, prompt: int) -> Tensor:
        if mask is None and not prompt and self.spec.modes == ("mean",) and hidden_TD.shape[0]:
            return hidden_TD.float().mean(dim=0)
        places = self._places(hidden_TD.shape[0], mask, prompt)
        rows_TD = hidden_TD[places.to(hidden_TD.device)].float()
        if rows_TD.shape[0] == 0:
            return rows_TD.new_zeros(len(self.spec.modes) * hidden_TD.shape[1])
        weights_T = (places - self._first(mask) + 1).float().to(rows_TD.device)
        return torch.cat([_pool(mode, rows_TD, weights_T) for mode in self.spec.modes])

    @staticmethod
    def _first(mask: Tensor | None) -> int:
        """Return the first row that is picked, from which positions are counted, a prompt included."""
        return 0 if mask is None or mask.ndim != 1 else int(mask.int().argmax())

    def _places(self, rows: int, mask: Tensor | None, prompt: int) -> Tensor:
        """Return which of a sequence's rows are pooled, ascending, on the processor."""
        places = torch.arange(rows)
        if mask is not None and mask.ndim == 1:
            places = places[mask]
        if prompt and not self.spec.include_prompt:
            places = places[places >= places[:1] + prompt]
        return places

    def _stepped(self, x_D: Tensor) -> Tensor:
        for number in range(len(self.spec.steps)):
            x_D = self._step(number, x_D)
        return x_D

    def _step(self, number: int, x_D: Tensor) -> Tensor:
        step = self.spec.steps[number]
        if step.kind == "normalize":
            return F.normalize(x_D, dim=-1)
        weight, bias = self._read(number, "weight"), self._read(number, "bias")
        if step.kind == "layer_norm":
            return F.layer_norm(x_D, x_D.shape[-1:], weight, bias, NORM_EPS)
        assert weight is not None
        made: Tensor = self._activations[number](F.linear(x_D, weight, bias))
        if step.residual:
            widened = self._read(number, "residual")
            made = made + (x_D if widened is None else F.linear(x_D, widened))
        return made

    def _read(self, number: int, name: str) -> Tensor | None:
        tensor = self._parameters.get(f"steps.{number}.{name}")
        return None if tensor is None else tensor.float()


def pooling_of(
    sentence: SentenceFiles, spec: PoolingSpec | None, *, dtype: torch.dtype, device: torch.device
) -> tuple[Pooling | None, SentenceFiles]:
    """Return the pooling with its weights; None where it has none, and why is then said."""
    if spec is None:
        return None, sentence
    try:
        return load_pooling(spec, sentence.root or Path(), dtype=dtype, device=device), sentence
    except SpecError as problem:
        return None, sentence.without_pooling(str(problem))


def load_pooling(spec: PoolingSpec, folder: Path, *, dtype: torch.dtype, device: torch.device) -> Pooling:
    """Return a pooling with the weights of its steps, from `model.safetensors` in the folder of each.

    Raises SpecError for a tensor that is missing, unexpected, misshapen or not finite.
    """
    parameters: dict[str, Tensor] = {}
    for number, step in enumerate(spec.steps):
        if step.kind == "normalize":
            continue
        for name, tensor in _weights(folder / step.folder / "model.safetensors", step).items():
            parameters[f"steps.{number}.{name}"] = tensor.to(device, dtype)
    return Pooling(spec, parameters)


def _weights(file: Path, step: PoolingStep) -> dict[str, Tensor]:
    where = f"{step.folder}/{file.name}"
    try:
        with open_tensors(file) as content:
            found = {name: content.read(name) for name in content.stored}
    except SpecError as problem:
        raise SpecError(f"{step.folder}/{problem}") from problem
    shapes = _shapes(step)
    tensors: dict[str, Tensor] = {}
    for name, (given, shape) in shapes.items():
        tensor = found.pop(given, None)
        if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
            has = "none" if tensor is None else f"{list(tensor.shape)} of {tensor.dtype}"
            raise SpecError(f"{where} should have {given} {list(shape)}; it has {has}")
        if not torch.isfinite(tensor).all():
            raise SpecError(f"{where} holds numbers that are not finite, in {given}")
        tensors[name] = tensor
    if found:
        raise SpecError(f"{where} has {shown(next(iter(found)))}, which nothing reads")
    return tensors


def _shapes(step: PoolingStep) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the name and shape in the file of each parameter of a step."""
    prefix, width = NAMES[step.kind], step.width or 0
    if step.kind == "layer_norm":
        return {"weight": (f"{prefix}.weight", (width,)), "bias": (f"{prefix}.bias", (width,))}
    reads = step.inputs or 0
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"weight": (f"{prefix}.weight", (width, reads))}
    if step.bias:
        shapes["bias"] = (f"{prefix}.bias", (width,))
    if step.residual and width != reads:
        shapes["residual"] = ("residual.weight", (width, reads))
    return shapes


def _pool(mode: str, rows_TD: Tensor, weights_T: Tensor) -> Tensor:
    if mode == "mean":
        return rows_TD.mean(dim=0)
    if mode == "mean_sqrt_len":
        return rows_TD.sum(dim=0) / math.sqrt(rows_TD.shape[0])
    if mode == "weighted_mean":
        return (rows_TD * (weights_T / weights_T.sum())[:, None]).sum(dim=0)
    if mode == "max":
        return rows_TD.amax(dim=0)
    return rows_TD[0 if mode == "cls" else -1]
