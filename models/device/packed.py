"""What a sequence asked for on a GPU, put where the outputs of the whole batch are gathered.

Nothing is waited for: whether numbers are finite is told with them, once they have come over. An output that
holds a number for each query and key, and is large, is taken as it was made: its memory is not had twice.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device.collect import FROM_LSE, TORCH_DTYPES, UNBOUNDED, Collector, held
from models.device.gathering import Gathering, OutputHome
from models.device.regions import OutputRegion
from models.device.staging import NUMPY, SMALL_BYTES, begin_copy, settle, to_device
from models.outputs import OUTPUTS, Selection
from models.protocol import Answer, Answers
from models.shapes import Dims, axes_of, has_layers, places_by_layer, shape_of

AT_ONCE = FROM_LSE | {"share"}  # what a kernel may put of many sequences
MAPS = frozenset(name for name, output in OUTPUTS.items() if {"T", "S"} <= {*output.axes})
# Of a sequence: its collector, where its rows begin in what is packed, and which of them are asked for.
Rows = tuple["PackedCollector", int, Sequence[int] | None]


class PackedCollector(Collector):
    """Gathers one sequence's outputs in the block of its batch; see `together`."""

    def __init__(self, selection: Selection, dims: Dims, device: torch.device) -> None:
        super().__init__(selection, dims)
        self.device = device
        self.number = 0
        self._gathering: Gathering | None = None
        self._apart: dict[str, Tensor] = {}

    @property
    def gathering(self) -> Gathering:
        """Where the outputs of its batch are; its own, where it was never put together with others."""
        if self._gathering is None:
            together([self])
        assert self._gathering is not None
        return self._gathering

    def join(self, gathering: Gathering, number: int) -> None:
        """Make room for all that was asked for, where the batch's outputs are."""
        self._gathering, self.number = gathering, number
        for name, region, layers, checks in gathering.once(self._selection, self._wanted):
            shape = shape_of(name, self._selection, self._dims)
            if layers == 1 and name in MAPS and self._is_apart(name, shape):
                continue
            rows = math.prod(shape[:-1]) if checks is None else checks
            gathering.add(number, name, region, (shape, layers), max(1, rows))

    def _wanted(self) -> list[tuple[str, OutputRegion, int, int | None]]:
        """Return each output, where it lies, its layers, and how often it is checked; None: every row."""
        found: list[tuple[str, OutputRegion, int, int | None]] = []
        for name in self._selection.outputs:
            layers = len(self._selection.layers) if has_layers(name, self._selection) else 1
            checks: int | None = layers
            if self._of_pairs(name):
                checks = len(places_by_layer(self._selection.pairs or ()))
            elif "H" not in OUTPUTS[name].axes:
                checks = None
            found.append((name, self.gathering.region(name, self._dtype(name)), layers, checks))
        return found

    def _is_apart(self, name: str, shape: tuple[int, ...]) -> bool:
        if has_layers(name, self._selection) or self._of_pairs(name):
            return False
        return math.prod(shape) * self._dtype(name).itemsize > SMALL_BYTES

    def put(self, name: str, layer: int, tensor: Tensor, *, sound: bool = False) -> None:
        """Keep one output of one layer, as `Collector.put` does."""
        if not self._dims.head_axis and tensor.ndim > len(axes_of(name, self._dims)):
            (tensor,) = tensor
        dtype = self._dtype(name)
        narrowed = tensor.dtype != dtype
        told = self._rows_checked and name != "scores"
        if name in FROM_LSE and tensor.numel() and dtype.is_floating_point and not told:
            self._below(tensor.amax())
        if narrowed and name in UNBOUNDED:
            for head in tensor:
                self._below(torch.where(held(head, dtype), 0.0, torch.inf))
        if self._joins(name):
            self._join(name, layer, tensor)
            return
        looked_at = name in FROM_LSE or name in UNBOUNDED or (sound and not narrowed)
        if (self.number, name) not in self.gathering:
            self._apart[name] = tensor.to(dtype)
            if not looked_at and tensor.numel():
                self.check(self._apart[name])
            return
        for place in self._places_of(name, layer):
            if isinstance(place, Tensor):
                place.copy_(tensor)
                if not looked_at:
                    self.gathering.check(name, self.number, place)
            else:
                whole, at = place
                whole.index_copy_(0, to_device([at], self.device, torch.int64), tensor.to(dtype))
                if not looked_at:
                    self.gathering.check(name, self.number, tensor.to(dtype))

    def room(self, name: str, layer: int) -> Tensor | None:  # noqa: ARG002
        """Return None: what is made of one sequence alone is put; of many at once, `home` says where."""
        return None

    def home(self, layer: int | None) -> OutputHome | None:
        """Return where outputs of weights go, of one layer, for who makes them of many sequences at once.

        Not those that are joined over layers, taken as they are made, asked for twice, or of pairs that are
        apart; None where none is left.
        """
        if layer is None:
            return None
        gathering, indices = self.gathering, {}
        for name in self._selection.outputs:
            if name not in AT_ONCE or (self.number, name) not in gathering or self._joins(name):
                continue
            places: Sequence[int] | slice = [0]
            if self._of_pairs(name):
                places = self._places(layer)
            elif self.layered(name):
                places = self.layers_of(layer)
            if isinstance(places, slice):
                indices[name] = places.start
            elif len(places) == 1:
                indices[name] = places[0]
        dtype = TORCH_DTYPES[self._selection.dtype]
        return OutputHome(gathering, self.number, dtype, indices) if indices else None

    def _joins(self, name: str) -> bool:
        return name == "mixed" or (self._of_pairs(name) and name in ("weights_mean", "weights_max"))

    def _places_of(self, name: str, layer: int) -> list[Tensor | tuple[Tensor, NDArray[np.int64]]]:
        """Return where a layer of an output belongs: each a view, or a whole and which of it."""
        whole = self.gathering.view(self.number, name)
        if self._of_pairs(name):
            places = self._places(layer)
            return [whole[places] if isinstance(places, slice) else (whole, np.array(places, np.int64))]
        if not has_layers(name, self._selection):
            return [whole]
        return [whole[place] for place in self.layers_of(layer)]

    def layers_of(self, layer: int) -> list[int]:
        """Return where a layer stands among those asked for."""
        return [place for place, wanted in enumerate(self._selection.layers) if wanted == layer]

    def layered(self, name: str) -> bool:
        """Whether an output has an axis of layers."""
        return has_layers(name, self._selection)

    def _below(self, greatest: Tensor) -> None:
        self.gathering.check_below(greatest, [self.number], [1])

    def check_rows(self, lse_HT: Tensor | None) -> None:
        """Note whether every softmax row is sound; −inf is a row with nothing to attend to."""
        self._rows_checked = lse_HT is not None
        if lse_HT is not None and lse_HT.numel():
            self._below(lse_HT.amax())

    def check(self, numbers: Tensor) -> None:
        """Note that what is put is sound only if all of these are finite."""
        if numbers.numel():
            self._below(numbers.abs().amax())

    def finish(self) -> None:
        """Do to what is of several layers what is done when all of them are there, and put it."""
        if not (self._sound or self._tensors):
            return
        super().finish()
        for flag in self._sound:
            self._below(torch.where(flag, 0.0, torch.inf))
        for name, tensor in self._tensors.items():
            if (self.number, name) in self.gathering:
                self.gathering.view(self.number, name).copy_(tensor)
            else:
                self._apart[name] = tensor.to(self._dtype(name))
        self._sound, self._tensors = [], {}

    def begin_apart(self) -> dict[str, NDArray[np.generic]]:
        """Begin to copy what is not in the block."""
        return {
            name: begin_copy(one.contiguous().reshape(-1).view(torch.uint8))
            .view(NUMPY[one.dtype])
            .reshape(one.shape)
            for name, one in self._apart.items()
        }


def together(collectors: Sequence[PackedCollector]) -> None:
    """Gather what sequences of a batch ask for in one block, in the order in which their rows are packed."""
    if not collectors:
        return
    gathering = Gathering(collectors[0].device)
    for number, one in enumerate(collectors):
        one.join(gathering, number)


def put_rows(name: str, layer: int, x_ND: Tensor, sources: Sequence[Rows]) -> None:
    """Put rows of x in one layer of an output of several sequences, and look whether they are finite."""
    of: dict[int, tuple[Gathering, list[tuple[int, int, Sequence[int] | None, int]]]] = {}
    for one, start, rows in sources:
        gathering = one.gathering
        places = one.layers_of(layer) if one.layered(name) else [0]
        own = of.setdefault(id(gathering), (gathering, []))[1]
        own += [(one.number, start, rows, place) for place in places]
    for gathering, some in of.values():
        gathering.put_rows(name, x_ND, some)


def check_rows(lse_HN: Tensor, sources: Sequence[tuple[PackedCollector, int, int]]) -> None:
    """Note whether every softmax row of sequences is sound, by `lse_HN` of packed rows.

    `sources`: each one's collector, where its rows begin and how many they are.
    """
    greatest_N = lse_HN.amax(0)
    gathering = sources[0][0].gathering
    at = sources[0][1]
    if [start for _, start, _ in sources] != list(accumulate([at, *(count for _, _, count in sources[:-1])])):
        greatest_N = torch.cat([greatest_N[start : start + count] for _, start, count in sources])
    else:
        greatest_N = greatest_N[at : at + sum(count for _, _, count in sources)]
    gathering.check_below(
        greatest_N, [one.number for one, _, _ in sources], [count for _, _, count in sources]
    )
    for one, _, _ in sources:
        one.trust_rows()


def packed_answers(collectors: Sequence[PackedCollector]) -> Answers:
    """Bring what was gathered to the processor and wait for it, once; a Failure where anything overflowed."""
    for one in collectors:
        one.finish()
    gatherings = {id(one.gathering): one.gathering for one in collectors}
    fetched = {key: gathering.fetch() for key, gathering in gatherings.items()}
    apart = [one.begin_apart() for one in collectors]
    settle(collectors[0].device)
    bad = {key: gatherings[key].unsound(loose) for key, (_, loose) in fetched.items()}
    found: Answers = []
    for one, own in zip(collectors, apart, strict=True):
        key = id(one.gathering)
        arrays = fetched[key][0]
        named = {name: own[name] if name in own else arrays[one.number, name] for name in one.names}
        found.append(one.failure() if one.number in bad[key] else Answer(tensors=named))
    return found
