"""The attention that whole models of another library are given to call, so that ours takes its place.

`attend` is that one function. It cuts the batch at the boundaries of the sequences, whatever mask the model
made, computes each with `models/attention.py`, and collects what was asked for. What a pass is about stands
in a context variable, so that a model may be probed on one thread while another runs on the device's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from models.attention import contextualize, prepare
from models.collect import Collector, chosen_part
from models.errors import SpecError
from models.lengths import OutputLengths
from models.masks import Band
from models.outputs import Selection
from models.reductions import DERIVED, derive
from models.rollout import rolled
from models.scores import Pause, go_on
from models.spec import AttentionSpec

__all__ = ["Call", "Lane", "LazyMask", "Pass", "attend", "current", "running"]

MASKED = 0.5  # of the lowest number of a dtype: where a model adds less than this, it means "never"


class DoneEarly(Exception):
    """Everything that was asked for has been collected: it leaves a forward pass whose rest nobody reads."""


@dataclass(slots=True, eq=False)
class Lane:
    """One sequence in a pass: where its rows stand, and what is collected of it.

    `batch` and `rows` are its query positions in [B, T, …]; `sources` its rows of what cross-attention reads.
    """

    batch: int
    rows: slice
    selection: Selection
    collector: Collector
    sources: slice | None = None
    mask: Tensor | None = None
    rollout: Tensor | None = None

    @property
    def last_layer(self) -> int:
        """The last layer that anything is asked of; −1 where none is."""
        return self.selection.last_layer


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the attention function, as the probe saw it: heads, key heads, d_k, d_v."""

    heads: int
    key_heads: int
    d_k: int
    d_v: int
    cross: bool


@dataclass(frozen=True, slots=True, eq=False)
class LazyMask:
    """A mask that is never made for a whole batch: `of(lane)` makes one sequence's, bool [T, S]."""

    of: Callable[[Lane], Tensor]


@dataclass(slots=True, eq=False)
class Pass:
    """One forward pass. `layer_of` tells which layer of the served model a call is, None for another's.

    `derived`: what is made of calls; `ends`: nothing but calls is read, so the last one ends the pass;
    `packed`: the sequences stand one after another in one row. `pause` may run another pass on this thread.
    `lengths`: of each layer, for `output_norms`.
    """

    lanes: Sequence[Lane]
    layer_of: Callable[[int], int | None]
    derived: frozenset[str]
    ends: bool = False
    packed: bool = False
    pause: Pause = go_on
    lengths: Sequence[OutputLengths] = ()
    entered: bool = False  # whether what enters the first layer has been seen
    calls: list[Call] = field(default_factory=list)
    layer: int | None = None  # of the latest call
    given: Tensor | None = None  # to its output projection
    _rules: dict[tuple[int, int], tuple[Any, "_Rule"]] = field(default_factory=dict)

    def rule(self, mask: Any, place: int) -> "_Rule":
        """Return what a mask says of one lane; worked out once, for every layer is given the same mask."""
        if mask is None:
            return _Rule()
        found = self._rules.get((id(mask), place))
        if found is None:
            found = mask, _rule(mask, self.lanes[place])  # the mask is kept, so that its id stays its own
            self._rules[id(mask), place] = found
        return found[1]

    def finish_call(self) -> None:
        """Leave the pass where no lane reads anything that is still to come."""
        layer = self.layer
        if self.ends and layer is not None and all(lane.last_layer <= layer for lane in self.lanes):
            raise DoneEarly

    def collect_z(self, z_BTD: Tensor) -> None:
        """Keep what the output projection made of the latest call."""
        if self.layer is None:
            return
        for lane in self.lanes:
            if "z" in lane.selection and self.layer in lane.selection.layers:
                own, rows = z_BTD[lane.batch, lane.rows], lane.selection.rows
                lane.collector.put("z", self.layer, own if rows is None else own[list(rows)])

    def collect_entry(self, x_BTD: Tensor) -> None:
        """Keep what enters the first layer, and leave the pass where nothing else is asked for."""
        self.entered = True
        for lane in self.lanes:
            if "embedded" in lane.selection:
                own, rows = x_BTD[lane.batch, lane.rows], lane.selection.rows
                lane.collector.put("embedded", 0, own if rows is None else own[list(rows)])
        if self.ends and all(lane.last_layer < 0 for lane in self.lanes):
            raise DoneEarly


_current: ContextVar[Pass | None] = ContextVar("pass", default=None)


def current() -> Pass | None:
    """Return the pass that this thread is in."""
    return _current.get()


@contextmanager
def running(one: Pass) -> Iterator[None]:
    """Let calls of this thread belong to a pass; an early end is an end."""
    token = _current.set(one)
    try:
        yield
    except DoneEarly:
        pass
    finally:
        _current.reset(token)


def attend(
    module: torch.nn.Module,
    query: Tensor,  # [B, H, T, d_k]
    key: Tensor,  # [B, G, S, d_k]
    value: Tensor,  # [B, G, S, d_v]
    attention_mask: Any,
    scaling: float | None = None,
    is_causal: bool | None = None,  # noqa: FBT001 - the library's signature
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return concatenated heads [B, T, H, d_v], and no weights: they are collected instead.

    The signature is that of transformers' `AttentionInterface`; `s_aux` are sinks. Without a mask the
    module's own `is_causal` decides.
    """
    now = current()
    assert now is not None, "a served model was called outside of a pass"
    cross = now.lanes[0].sources is not None and _is_cross(now, query, key)
    now.pause()
    now.layer = now.layer_of(len(now.calls))
    now.calls.append(Call(query.shape[1], key.shape[1], query.shape[3], value.shape[3], cross))
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    spec = AttentionSpec(
        scale=scaling, causal=causal and attention_mask is None and query.shape[2] > 1, softcap=softcap
    )
    output = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
    for place, lane in enumerate(now.lanes):
        rows, keys = lane.rows, lane.sources if cross else lane.rows
        assert keys is not None
        rule = now.rule(attention_mask, place)
        problem = prepare(
            query[lane.batch, :, rows],
            key[lane.batch, :, keys],
            value[lane.batch, :, keys],
            spec=replace(spec, **rule.band) if rule.band else spec,
            mask=_both(rule.mask, lane.mask if now.layer is not None else None),
            bias=_bias(position_bias, rule.added, lane, keys),
            sinks=s_aux,
            pause=now.pause,
        )
        _contextualize(now, lane, problem, output)
    now.given = output
    if "z" not in now.derived:
        now.finish_call()
    return output, None


def _is_cross(now: Pass, query: Tensor, key: Tensor) -> bool:
    """Tell cross- from self-attention: by its place, where both lengths agree; every other call is one."""
    return key.shape[2] != query.shape[2] or len(now.calls) % 2 == 1


def _contextualize(now: Pass, lane: Lane, problem: Any, output: Tensor) -> None:
    """Compute one sequence, put its z in place and collect what else was asked of this layer."""
    asked = now.layer is not None and now.layer in lane.selection.layers
    names = tuple(name for name in lane.selection.outputs if name in now.derived and name != "z")
    reads = asked and bool(names)
    z_HTV, lse_HT = contextualize(problem, want_lse=reads)
    output[lane.batch, lane.rows] = z_HTV.transpose(0, 1)
    if not reads:
        return
    assert now.layer is not None
    lane.collector.check_rows(lse_HT)
    if "z_heads" in names:
        lane.collector.put("z_heads", now.layer, chosen_part(z_HTV, lane.selection))
    derived = tuple(name for name in names if name in DERIVED)
    if derived:
        chosen = replace(lane.selection, outputs=derived)
        lengths = now.lengths[now.layer] if now.lengths else None
        for name, tensor in derive(problem, lse_HT, chosen, output_lengths=lengths).items():
            lane.collector.put(name, now.layer, tensor)
    if "rollout" in names:
        mean = replace(lane.selection, outputs=("weights_mean",), rows=None, spans=None)
        lane.rollout = rolled(derive(problem, lse_HT, mean)["weights_mean"], lane.rollout)
        if now.layer == lane.last_layer:
            rows, whole = lane.selection.rows, lane.rollout
            lane.collector.put("rollout", now.layer, whole if rows is None else whole[list(rows)])


@dataclass(frozen=True, slots=True, eq=False)
class _Rule:
    """What one sequence's mask comes to: fields of an AttentionSpec, or a mask, and what it adds."""

    band: dict[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None  # bool [1 or H, T, S]
    added: Tensor | None = None  # float32 [1 or H, T, S]


def _rule(mask: Any, lane: Lane) -> _Rule:
    """Read a mask [B or 1, H or 1, T or 1, S] for one sequence: causal and sliding ones become a band."""
    if isinstance(mask, LazyMask):
        seen_HTS = mask.of(lane)[None]
        added = None
    else:
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            raise SpecError(f"the model makes masks of a kind that is not known here: {type(mask).__name__}")
        own = mask[lane.batch if mask.shape[0] > 1 else 0]
        if own.shape[1] > 1:
            own = own[:, lane.rows]
        if own.shape[2] != (lane.rows.stop - lane.rows.start) and lane.sources is None:
            own = own[..., lane.rows]
        if own.dtype == torch.bool:
            seen_HTS, added = own, None
        else:
            seen_HTS = own > torch.finfo(own.dtype).min * MASKED
            added = own.float().masked_fill(~seen_HTS, 0.0)
            added = added if bool(added.any()) else None
    if bool(seen_HTS.all()):
        return _Rule(added=added)
    band = _band(seen_HTS[0]) if seen_HTS.shape[0] == 1 else None
    return _Rule(band=band, added=added) if band else _Rule(mask=seen_HTS, added=added)


def _band(seen_TS: Tensor) -> dict[str, Any] | None:
    """Return the fields of an AttentionSpec that say the same as a mask, None where none do."""
    rows, keys = seen_TS.shape
    if rows < 2 or not bool(seen_TS[0].any()) or not bool(seen_TS[-1].any()):
        return None
    high = int(seen_TS[0].nonzero()[-1])
    low = int(seen_TS[-1].nonzero()[0]) - (rows - 1)
    bounds = Band(low if low > 1 - rows else None, high if high < keys - 1 else None)
    if low > 0 or (bounds.low is None and bounds.high is None):
        return None
    blocked = bounds.blocked(range(rows), slice(0, keys), seen_TS.device)
    if not torch.equal(blocked, ~seen_TS):
        return None
    left = None if bounds.low is None else -bounds.low
    if high == 0:
        return {"causal": True, "left_window": left}
    return {"causal": False, "left_window": left, "right_window": bounds.high}


def _both(mask: Tensor | None, own: Tensor | None) -> Tensor | None:
    return own if mask is None else mask if own is None else mask & own


def _bias(position_bias: Tensor | None, added: Tensor | None, lane: Lane, keys: slice) -> Tensor | None:
    """Return what is added to one sequence's scores, [H or 1, T, S]; a bias of zeros adds nothing."""
    bias = None
    if position_bias is not None and bool(position_bias.any()):
        bias = position_bias[lane.batch if position_bias.shape[0] > 1 else 0]
        if bias.shape[1] > 1:
            bias = bias[:, lane.rows]
        bias = bias[..., keys].float()
    return bias if added is None else added if bias is None else bias + added
