"""The runs that a probe compares: the library's eager attention, that with its rounding moved, and ours.

What float32 can decide is measured, not assumed: every linear's result is let off by a rounding error, and
how far the last hidden state then goes is how far two right computations of this model may be apart.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.attention.sequence import InputSequence, pack
from models.device.collect import Collector
from models.edit import Edit
from models.edits.layer import edits_by_layer
from models.encoder.layers.plans import Links
from models.errors import SpecError
from models.outputs import Selection
from models.pretrained.interception import Call, Pass, current, in_pass
from models.pretrained.probe_samples import Sample
from models.pretrained.tower import Tower

ROUNDING = 2.0**-22  # of the root mean square of a product: a few units of float32's last place


@dataclass(slots=True)
class Eager:
    """What the library's own attention says, each with a batch axis, and how far rounding alone moves it."""

    hidden: Tensor
    weights: list[Tensor]
    layers: int
    noise: float = 0.0  # of the last hidden state
    noises: list[float] = field(default_factory=list)  # of the weights of every call


@dataclass(slots=True)
class Ours:
    """One run of ours: calls, weights of each sequence, what was projected by whom, and the result."""

    calls: list[Call]
    weights: list[dict[int, Tensor]]
    projections: dict[int, torch.nn.Module]
    hidden: Tensor


class _WeightsRecorder(Collector):
    """Keeps the weights of every call, as they come, and nothing else."""

    def __init__(self) -> None:  # of no selection: what is asked for goes nowhere
        self.weights: dict[int, Tensor] = {}

    def put(self, name: str, layer: int, tensor: Tensor, *, sound: bool = False) -> None:  # noqa: ARG002
        assert name == "weights"
        self.weights[layer] = tensor

    def check_rows(self, lse_HT: Tensor | None) -> None:
        pass

    def trust_rows(self) -> None:
        pass

    def room(self, name: str, layer: int) -> None:
        pass


class PositionTables(TorchFunctionMode):
    """Watches every table that is looked up, and keeps those of positions: rows read that stand in sequence.

    `limit()` is then how many positions the smallest of them has rows for.
    """

    def __init__(self, words: Tensor | None) -> None:
        super().__init__()
        self._words = None if words is None else words.data_ptr()
        self._seen: dict[int, set[tuple[int, int]]] = {}  # of each table (rows, first row) of every length
        self._lengths: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.embedding and len(args) > 1:
            self._look(*args[:2])
        return func(*args, **(kwargs or {}))

    def of(self, length: int) -> "PositionTables":
        """Say of how many rows the sequence is that is run next."""
        self._lengths.add(length)
        self._length = length
        return self

    def limit(self) -> int | None:
        """Return the positions there are rows for, None where no table of positions was seen."""
        found = [
            rows - first
            for pairs in self._seen.values()
            if len(pairs) == 1  # the same first row, whatever the length
            for rows, first in pairs
        ]
        return min(found, default=None)

    def _look(self, indices: Any, table: Any) -> None:
        if not isinstance(table, Tensor) or table.data_ptr() == self._words:
            return
        if indices.numel() != self._length:  # relative positions are of pairs of rows
            return
        read = indices.unique()
        first = int(read[0]) if len(read) else 0
        if len(read) == self._length and int(read[-1]) - first == self._length - 1:
            self._seen.setdefault(table.data_ptr(), set()).add((int(table.shape[0]), first))


def eager(
    tower: Tower,
    sample: Sample,
    *,
    attentions: bool = True,
    moving: Sequence[torch.nn.Module] | None = None,
    seed: int = 0,
) -> Eager:
    """Run one sample by the attention that is switched on, the library's own.

    With `moving`, those modules' results are off by a rounding error each. Raises SpecError for whatever the
    library raises.
    """
    given = tower.arguments(
        [sample.source], by_ids=sample.ids is not None, memories=[sample.memory], masks=[sample.mask]
    )
    more = {"output_attentions": True, "output_hidden_states": True} if attentions else {}
    with _moved(moving or (), seed):
        out = _guarded(tower, given | more)
    own = list(getattr(out, "attentions", None) or ())
    states = list(getattr(out, "hidden_states", None) or ())
    for number, state in enumerate(states[1:]):
        if state.shape != out.last_hidden_state.shape:
            shapes = f"{list(state.shape[1:])}, the last one {list(out.last_hidden_state.shape[1:])}"
            raise SpecError(
                f"layer {number} gives states of shape {shapes}; only models of [T, d_model] are served"
            )
    if tower.calls_per_layer == 2:
        cross = list(getattr(out, "cross_attentions", None) or ())
        if len(own) != len(cross):
            raise SpecError(
                f"the decoder has {len(own)} self- and {len(cross)} cross-attentions; one each a layer"
            )
        own = [weights for pair in zip(own, cross, strict=True) for weights in pair]
    return Eager(hidden=out.last_hidden_state, weights=own, layers=len(states) - 1)


def ours(
    tower: Tower,
    samples: Sequence[Sample],
    *,
    candidates: Sequence[torch.nn.Module] = (),
    packed: bool = False,
    weights: bool = False,
    give_mask: bool = False,
    edits: Sequence[Sequence[Edit]] = (),
) -> Ours:
    """Run samples by our attention: packed in one row, or stacked, which takes equal lengths.

    `candidates` are watched for which of them reads what attention gave. With `give_mask` the model is given
    the mask, too. `edits`: of each sample, if any.
    """
    layers = tuple(range(tower.layers * tower.calls_per_layer)) if weights else (0,)
    chosen = Selection(outputs=("weights",) if weights else (), layers=layers, layer_axis=True)
    recorders = [_WeightsRecorder() for _ in samples]
    sequences = [
        InputSequence(
            selection=chosen,
            collector=recorder,
            queries=sample.rows,
            keys=sample.rows if sample.memory is None else sample.memory.shape[0],
            place=place,
            mask=sample.mask,
            crosses=sample.memory is not None,
            outlives=True,
            edits=edits_by_layer(edits[place]) if edits else {},
        )
        for place, (recorder, sample) in enumerate(zip(recorders, samples, strict=True))
    ]
    pack(sequences)
    layer_of = tower.layer_of if not weights else lambda call: call  # every call's weights are compared
    now = Pass(sequences=sequences, layer_of=layer_of, packed=packed, links=Links.of(sequences))
    arguments = tower.arguments(
        [one.source for one in samples],
        by_ids=samples[0].ids is not None,
        packed=packed,
        memories=[one.memory for one in samples],
        masks=[one.mask for one in samples] if give_mask else (),
    )
    projections: dict[int, torch.nn.Module] = {}
    with _watched(candidates, projections), in_pass(now):
        out = _guarded(tower, arguments)
    return Ours(now.calls, [one.weights for one in recorders], projections, out.last_hidden_state)


def _guarded(tower: Tower, arguments: dict[str, Any]) -> Any:
    """Run a forward pass of somebody's code; whatever it raises is why the model is refused."""
    try:
        out = tower.forward(**arguments)
    except SpecError:
        raise
    except Exception as problem:  # a model's code raises anything
        given = next(iter(arguments)).replace("inputs_embeds", "embeddings").replace("input_ids", "token ids")
        reason = f"{type(problem).__name__}: {str(problem)[:200]}"
        raise SpecError(
            f"the model cannot be run on {given} alone, one sequence at a time: {reason}"
        ) from problem
    if not isinstance(getattr(out, "last_hidden_state", None), Tensor):
        raise SpecError("the model gives no last_hidden_state; only encoders and decoders are served")
    return out


@contextmanager
def _moved(modules: Sequence[torch.nn.Module], seed: int) -> Iterator[None]:
    """Let results of modules be off by a rounding error."""
    chance = torch.Generator().manual_seed(seed)

    def move(_module: torch.nn.Module, _given: Any, result: Any) -> Any:
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return None
        size = result.square().mean().sqrt() * ROUNDING
        return result + torch.randn(result.shape, generator=chance) * size

    hooks = [module.register_forward_hook(move) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _watched(modules: Sequence[torch.nn.Module], projections: dict[int, torch.nn.Module]) -> Iterator[None]:
    """Keep of every call which module first reads exactly what attention gave."""

    def watch(module: torch.nn.Module, given: tuple[Any, ...], _: Any) -> None:
        one = current()
        if one is None or one.given is None or not given or not isinstance(given[0], Tensor):
            return
        read, made = given[0].flatten(), one.given.flatten()
        if read.shape == made.shape and torch.equal(read, made):
            projections.setdefault(len(one.calls) - 1, module)

    hooks = [module.register_forward_hook(watch) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
