"""Who collects what a sequence asks for, by the device, and answers made of what was collected.

On a processor each sequence's outputs are kept as they are made; on a GPU those of a batch are gathered
(`packed`), so that what crosses is one copy.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.device import packed
from models.device.collect import Collector
from models.device.packed import PackedCollector, packed_answers
from models.device.staging import to_host
from models.outputs import Selection
from models.protocol import Answer, Answers
from models.shapes import Dims


def collector_of(selection: Selection, dims: Dims, device: torch.device) -> Collector:
    """Return what collects the outputs of one sequence."""
    return Collector(selection, dims) if device.type == "cpu" else PackedCollector(selection, dims, device)


def together(collectors: Sequence[Collector]) -> None:
    """Let what sequences of a batch ask for be gathered, in the order in which their rows are packed."""
    packed.together([one for one in collectors if isinstance(one, PackedCollector)])


def put_rows(
    name: str, layer: int, x_ND: Tensor, sources: Sequence[tuple[Collector, int, Sequence[int] | None]]
) -> bool:
    """Put rows of x in a layer of an output of several sequences at once; False where each is to put its own.

    `sources`: who collects, where the rows begin in x, and which of them are asked for, None: all.
    """
    own = [(one, start, rows) for one, start, rows in sources if isinstance(one, PackedCollector)]
    if own:
        packed.put_rows(name, layer, x_ND, own)
    return bool(own)


def check_rows(lse_HN: Tensor, sources: Sequence[tuple[Collector, int, int]]) -> bool:
    """Note of several sequences at once whether every softmax row is sound; False where each is to do it.

    `lse_HN` of packed rows; `sources`: who collects, where the rows begin, how many they are.
    """
    own = [(one, start, count) for one, start, count in sources if isinstance(one, PackedCollector)]
    if own:
        packed.check_rows(lse_HN, own)
    return bool(own)


def answers(collectors: Sequence[Collector]) -> Answers:
    """Bring what was collected to the processor, together; a Failure where anything overflowed."""
    own = [one for one in collectors if isinstance(one, PackedCollector)]
    if own:
        return packed_answers(own)
    for collector in collectors:
        collector.finish()
    flags = [collector.sound for collector in collectors]
    tensors = [flag for flag in flags if flag is not None]
    for collector in collectors:
        tensors += collector.tensors
    arrays = iter(to_host(tensors))
    sound = [flag is None or bool(next(arrays)) for flag in flags]
    found: Answers = []
    for collector, good in zip(collectors, sound, strict=True):
        named = {name: next(arrays) for name in collector.names}
        found.append(Answer(tensors=named) if good else collector.failure())
    return found
