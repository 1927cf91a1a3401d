"""What a sequence asked for, gathered layer by layer into arrays that may cross the wall."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.device.gathering import OutputHome
from models.outputs import OUTPUTS, Selection, made_of
from models.protocol import Failure
from models.shapes import Dims, axes_of, has_layers, places_by_layer, shape_of

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# A row of these is sound exactly when its logsumexp is: no need to read H·T·S numbers again, but for scores.
FROM_LSE = made_of("weights", "top_k", "scores")
# Of these, what has no bounds: a number that float16 does not hold would read as one that is masked.
UNBOUNDED = ("scores", "lse")
# How what is made of heads of several layers takes up what each of them gives.
JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weights_mean": Tensor.add_,
    "weights_max": lambda before, more: torch.maximum(before, more, out=before),
    "mixed": Tensor.add_,
}


class Collector:
    """Gathers one sequence's outputs on a processor; `answers` makes an Answer of them, or a Failure."""

    def __init__(self, selection: Selection, dims: Dims) -> None:
        self._selection = selection
        self._dims = dims
        self._tensors: dict[str, Tensor] = {}
        self._sound: list[Tensor] = []
        self._rows_checked = False

    def put(self, name: str, layer: int, tensor: Tensor, *, sound: bool = False) -> None:
        """Keep one output of one layer (of the only layer, where there is no layer axis).

        `sound`: the caller knows that all of it is finite. A head axis goes where the input came without.
        """
        if not self._dims.head_axis and tensor.ndim > len(axes_of(name, self._dims)):
            (tensor,) = tensor
        dtype = self._dtype(name)
        narrowed = tensor.dtype != dtype
        if name == "mixed" or not tensor.numel():
            pass  # it is looked at when it is whole
        elif name not in FROM_LSE and (narrowed or not sound):
            # As NaN is the least and the highest. Much quicker than to ask each number whether it is finite.
            bounds = torch.stack(torch.aminmax(tensor)).to(dtype)
            self._sound.append(bounds.isfinite().all())
        elif name in FROM_LSE and (name == "scores" or not self._rows_checked):
            # False for NaN; −inf is a masked score. Scores are made apart from rows, and may overflow alone.
            self._sound.append(tensor.amax() < torch.inf)
        if narrowed and name in UNBOUNDED:
            self._sound.extend(held(head, dtype) for head in tensor)
        if name in JOINED and (name == "mixed" or self._of_pairs(name)):
            self._join(name, layer, tensor)
        elif self._of_pairs(name):
            whole, places = self._whole(name), self._places(layer)
            if isinstance(places, slice):
                _fill(whole[places], tensor)
            else:
                whole[places] = tensor.to(whole.dtype)
        elif not has_layers(name, self._selection):
            self._tensors[name] = tensor.to(dtype) if narrowed else tensor
        else:
            layers = self._whole(name)
            for place, wanted in enumerate(self._selection.layers):
                if wanted == layer:
                    _fill(layers[place], tensor)

    def room(self, name: str, layer: int) -> Tensor | None:
        """Return where one of several layers is to be put, for who can make it there; None: anywhere."""
        if self._of_pairs(name):
            places = self._places(layer)
            return self._whole(name)[places] if isinstance(places, slice) else None
        if not has_layers(name, self._selection):
            return None
        return self._whole(name)[self._selection.layers.index(layer)]

    def home(self, layer: int | None) -> OutputHome | None:  # noqa: ARG002
        """Return where outputs of many sequences are put at once; None: each puts its own."""
        return None

    def _of_pairs(self, name: str) -> bool:
        return self._selection.pairs is not None and OUTPUTS[name].of_heads

    def _join(self, name: str, layer: int, tensor: Tensor) -> None:
        """Join what is of one layer with what is of those before, in float32."""
        if name == "weights_mean":
            pairs = self._selection.pairs or ()
            if (own := len(places_by_layer(pairs)[layer])) < len(pairs):
                tensor = tensor * (own / len(pairs))
        before = self._tensors.get(name)
        self._tensors[name] = tensor if before is None else JOINED[name](before, tensor)

    def finish(self) -> None:
        """Do to what is of several layers what is done when all of them are there."""
        mix = self._selection.mix
        if "mixed" not in self._tensors or mix is None:
            return
        mixed = self._tensors["mixed"]
        mixed = mixed + mix.bias if mix.bias else mixed
        self._tensors["mixed"] = mixed = torch.sigmoid(mixed) if mix.sigmoid else mixed
        if mixed.numel():
            self._sound.append(torch.stack(torch.aminmax(mixed)).to(self._dtype("mixed")).isfinite().all())

    def _places(self, layer: int) -> slice | list[int]:
        """Return where the pairs of a layer stand among all: a slice where they follow each other."""
        places = places_by_layer(self._selection.pairs or ())[layer]
        first, last = places[0], places[-1] + 1
        return slice(first, last) if last - first == len(places) else list(places)

    def _whole(self, name: str) -> Tensor:
        """Return the memory of all layers of an output, or of all pairs."""
        if name not in self._tensors:
            shape = shape_of(name, self._selection, self._dims)
            self._tensors[name] = torch.empty(shape, dtype=self._dtype(name))
        return self._tensors[name]

    def _dtype(self, name: str) -> torch.dtype:
        return torch.int32 if OUTPUTS[name].dtype == "int32" else TORCH_DTYPES[self._selection.dtype]

    def check_rows(self, lse_HT: Tensor | None) -> None:
        """Note whether every softmax row is sound; −inf is a row with nothing to attend to.

        None, where the kernel does not tell, leaves the check to `put`.
        """
        self._rows_checked = lse_HT is not None
        if lse_HT is not None:
            self._sound.append((lse_HT < torch.inf).all())  # few; false for NaN too

    def trust_rows(self) -> None:
        """Note that every softmax row is known to be sound: the z made of them is finite."""
        self._rows_checked = True

    def check(self, numbers: Tensor) -> None:
        """Note that what is put is sound only if all of these are finite."""
        self._sound.append(numbers.isfinite().all())

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs that were asked for."""
        return self._selection.outputs

    @property
    def tensors(self) -> list[Tensor]:
        """What was gathered, in the asked order."""
        return [self._tensors[name].to(self._dtype(name)) for name in self._selection.outputs]

    @property
    def sound(self) -> Tensor | None:
        """Whether none of it is NaN or infinite that may not be, a bool; None where that is known."""
        return torch.stack(self._sound).all() if self._sound else None

    def failure(self) -> Failure:
        """Say that something was."""
        return Failure(
            code="not_finite",
            message=f"the result of this sequence is not finite in {self._selection.dtype}: "
            "numbers overflowed on the way; scale the input down",
        )


def _fill(place: Tensor, tensor: Tensor) -> None:
    if place.data_ptr() != tensor.data_ptr():  # else it was made there
        place.copy_(tensor)


def held(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return whether a narrower dtype holds all numbers: infinite are those alone that were."""
    return (tensor.to(dtype).isinf() == tensor.isinf()).all()


def all_finite(tensor: Tensor) -> bool:
    """Whether every number is finite, read once; a sum that overflows though none did says no."""
    return math.isfinite(tensor.sum(dtype=torch.float32).item())
