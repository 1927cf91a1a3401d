"""What a whole model must show before it is served: that every attention in it is ours, and right.

A short sequence goes through the library's own eager attention and through ours; calls are counted, and the
weights of every layer and the last hidden state compared.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models.errors import SpecError
from models.interception import Call, Lane, Pass, current, running
from models.outputs import Selection
from models.tower import Tower

__all__ = ["Shape", "probe"]

TOLERANCE = 1e-5  # of the largest number, at least 1
LENGTH, SOURCES = (
    9,
    5,
)  # tokens of the probe; they differ, so that self- and cross-attention can be told apart
PACKED = (5, 9, 2)
LONGEST = 256  # of a probe that is to reach beyond a window

Switch = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the probe found: the sizes of every call, and the projection after each, if all have one."""

    call: Call
    d_model: int
    projections: tuple[torch.nn.Module, ...] | None


@dataclass(slots=True)
class _Recorder:
    """Takes a Collector's place: keeps the weights of every call."""

    weights: dict[int, Tensor] = field(default_factory=dict)

    def put(self, name: str, layer: int, tensor: Tensor) -> None:
        assert name == "weights"
        self.weights[layer] = tensor

    def check_rows(self, lse_HT: Tensor | None) -> None:
        pass


@dataclass(slots=True)
class _Seen:
    """One run of ours: calls, weights of each sequence, what was projected by whom, and the result."""

    calls: list[Call]
    weights: list[dict[int, Tensor]]
    projections: dict[int, torch.nn.Module]
    hidden: Tensor


def probe(
    tower: Tower,
    switch: Switch,
    candidates: Iterable[torch.nn.Module],
    *,
    width: int,
    window: int | None,
    padding: int | None,
) -> Shape:
    """Return the sizes of a tower's attention, whose `layers` and `packs` are set; leave ours switched on.

    `switch` chooses the attention by name; `candidates` are the linears among which output projections are
    looked for; `width` is that of embeddings; a `window` is exceeded where it is not too long; the `padding`
    token is left out. Raises SpecError.
    """
    length = window + LENGTH if window is not None and window + LENGTH <= LONGEST else LENGTH
    chance = torch.Generator().manual_seed(0)
    ids, x_TD = _words(tower, length, width, chance, padding)
    memory = torch.randn(SOURCES, width, generator=chance) if tower.calls_per_layer == 2 else None
    with torch.inference_mode():
        switch("eager")
        given = _arguments(tower, x_TD, memory)
        if ids is not None and "input_ids" in tower.parameters:  # ours looks them up itself
            given = {name: one for name, one in given.items() if name != "inputs_embeds"} | {"input_ids": ids}
        expected = _guarded(tower, given, output_attentions=True, output_hidden_states=True)
        attentions = _attentions(tower, expected)
        switch("heed")
        seen = _run(tower, [x_TD], memory, list(candidates))
        _check_calls(tower, seen.calls, attentions)
        for number, weights in enumerate(attentions):
            _check_close(f"the weights of attention {number}", seen.weights[0][number], weights[0])
        _check_close("the last hidden state", seen.hidden[0], expected.last_hidden_state[0])
        tower.packs = tower.packs and _packs(tower, width, chance)
    found = [seen.projections.get(number) for number in range(len(seen.calls))]
    served = found[tower.first_call :: tower.calls_per_layer]
    whole = tuple(one for one in served if one is not None)
    return Shape(
        call=seen.calls[tower.first_call],
        d_model=int(seen.hidden.shape[-1]),
        projections=whole if len(whole) == len(served) else None,
    )


def _words(
    tower: Tower, length: int, width: int, chance: torch.Generator, padding: int | None
) -> tuple[Tensor | None, Tensor]:
    """Return ids [1, length] of any words and their embeddings; only any embeddings where there are none."""
    if tower.table is None:
        return None, torch.randn(length, width, generator=chance)
    ids = torch.randint(tower.vocabulary, (1, length), generator=chance)
    if padding is not None and tower.vocabulary > 1:
        ids[ids == padding] = (padding + 1) % tower.vocabulary
    with torch.inference_mode():
        embedded: Tensor = tower.table(ids)[0]
    return ids, embedded


def _arguments(tower: Tower, x_TD: Tensor, memory: Tensor | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {"inputs_embeds": x_TD[None]}
    if memory is not None:
        arguments["encoder_hidden_states"] = memory[None]
    if "use_cache" in tower.parameters:
        arguments["use_cache"] = False
    return arguments


def _guarded(tower: Tower, arguments: dict[str, Any], **options: Any) -> Any:
    """Run a forward pass of somebody's code; whatever it raises is why the model is refused."""
    try:
        out = tower.forward(**arguments, **options)
    except Exception as problem:  # a model's code raises anything
        reason = f"{type(problem).__name__}: {str(problem)[:200]}"
        raise SpecError(f"the model cannot be run on embeddings: {reason}") from problem
    if not isinstance(getattr(out, "last_hidden_state", None), Tensor):
        raise SpecError("the model gives no last_hidden_state; only encoders and decoders are served")
    return out


def _attentions(tower: Tower, out: Any) -> list[Tensor]:
    """Return eager's weights [B, H, T, S] in the order of calls, and set the tower's layers."""
    tower.layers = len(getattr(out, "hidden_states", None) or ()) - 1
    own = list(getattr(out, "attentions", None) or ())
    if tower.calls_per_layer == 2:
        cross = list(getattr(out, "cross_attentions", None) or ())
        if len(own) != len(cross):
            raise SpecError(
                f"the decoder has {len(own)} self- and {len(cross)} cross-attentions; one each a layer"
            )
        return [weights for pair in zip(own, cross, strict=True) for weights in pair]
    return own


def _check_calls(tower: Tower, calls: Sequence[Call], attentions: Sequence[Tensor]) -> None:
    expected = tower.layers * tower.calls_per_layer
    if len(calls) != expected or tower.layers < 1:
        raise SpecError(
            "the architecture goes around the registered attention function: "
            f"its {tower.layers} layers called it {len(calls)} times, not {max(expected, 1)}"
        )
    if len(attentions) != len(calls) or any(one is None for one in attentions):
        raise SpecError(
            f"eager attention gives {len(attentions)} matrices to compare {len(calls)} calls with"
        )
    for kind in range(tower.calls_per_layer):
        same = set(calls[kind :: tower.calls_per_layer])
        if len(same) != 1:
            raise SpecError("its layers differ in heads or widths; only models of equal layers are served")


def _check_close(what: str, actual: Tensor, expected: Tensor) -> None:
    if actual.shape != expected.shape:
        raise SpecError(f"{what} has shape {list(actual.shape)}, eager's {list(expected.shape)}")
    away = _away(actual, expected)
    if not away <= TOLERANCE:
        raise SpecError(f"{what} differs from eager attention by {away:.1e}, over {TOLERANCE:.0e}")


def _away(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number or 1; NaN where there is one."""
    return float((actual - expected).abs().max()) / max(1.0, float(expected.abs().max()))


def _run(
    tower: Tower, inputs: Sequence[Tensor], memory: Tensor | None, candidates: Sequence[torch.nn.Module]
) -> _Seen:
    """Run sequences through ours, packed if several, and watch which linear reads what attention gave."""
    layers = tuple(range(tower.layers * tower.calls_per_layer))
    chosen = Selection(outputs=("weights",), layers=layers, layer_axis=True)
    recorders = [_Recorder() for _ in inputs]
    lanes, start = [], 0
    for recorder, x_TD in zip(recorders, inputs, strict=True):
        rows = slice(start, start := start + x_TD.shape[0])
        sources = None if memory is None else slice(0, memory.shape[0])
        lanes.append(Lane(0, rows, chosen, recorder, sources))  # type: ignore[arg-type]  # its two methods
    packed = len(inputs) > 1
    now = Pass(lanes=lanes, layer_of=lambda call: call, derived=frozenset({"weights"}), packed=packed)
    arguments = _arguments(tower, torch.cat(list(inputs)), memory)
    if packed:
        arguments["position_ids"] = torch.cat([torch.arange(x_TD.shape[0]) for x_TD in inputs])[None]
    projections: dict[int, torch.nn.Module] = {}

    def watch(module: torch.nn.Module, given: tuple[Any, ...], _: Any) -> None:
        one = current()
        if one is None or one.given is None or not given or not isinstance(given[0], Tensor):
            return
        read, made = given[0].flatten(), one.given.flatten()
        if read.shape == made.shape and torch.equal(read, made):
            projections.setdefault(len(one.calls) - 1, module)

    hooks = [module.register_forward_hook(watch) for module in candidates]
    try:
        with running(now):
            out = _guarded(tower, arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return _Seen(now.calls, [one.weights for one in recorders], projections, out.last_hidden_state)


def _packs(tower: Tower, width: int, chance: torch.Generator) -> bool:
    """Whether sequences in one row, told apart by their positions, come out as they do alone."""
    inputs = [_words(tower, length, width, chance, None)[1] for length in PACKED]
    try:
        together = _run(tower, inputs, None, ())
        start = 0
        for x_TD in inputs:
            alone = _run(tower, [x_TD], None, ())
            own = together.hidden[0, start : start + x_TD.shape[0]]
            _check_close("a packed sequence", own, alone.hidden[0])
            start += x_TD.shape[0]
    except SpecError:
        return False
    return True
