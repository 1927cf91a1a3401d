"""The attention that whole models of another library are given to call, so that ours takes its place.

`attend` is that one function. It cuts the batch at the boundaries of the sequences, whatever mask the model
made, computes each with `models/attention/`, and collects what was asked for. What a pass is about stands
in a context variable, so that a model may be probed on one thread while another runs on the device's.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from models.attention.backends import plan
from models.attention.groups import Group, ProblemOf
from models.attention.lengths import OutputLengths
from models.attention.masks import Band
from models.attention.problem import Heads, Problem, Rule, prepare
from models.attention.sequence import InputSequence, collect_rows
from models.device.staging import moved, on_processor
from models.device.steps import Steps, finish
from models.encoder.layers.plans import Links
from models.errors import SpecError
from models.mechanism import AttentionSpec

MASKED = 0.5  # of the lowest number of a dtype: where a model adds less than this, it means "never"


class DoneEarly(Exception):
    """Everything that was asked for has been collected: it leaves a forward pass whose rest nobody reads."""


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
    """A mask that is never made for a whole batch: `of(sequence)` makes one's, bool [T, S]."""

    of: Callable[[InputSequence], Tensor]


@dataclass(slots=True, eq=False)
class Pass:
    """One forward pass. `layer_of` tells which layer of the served model a call is, None for another's.

    `sequences` stand one after another in the rows of [B, T, …], in one row of it where they are `packed`.
    `links`: which take z from each other. `ends`: nothing but calls is read, so the last one ends the pass.
    `leave` is called at every yield point, and returns when the pass is to go on. `lengths`: of each
    layer, for `output_norms`.
    """

    sequences: Sequence[InputSequence]
    layer_of: Callable[[int], int | None]
    ends: bool = False
    packed: bool = False
    links: Links = field(default_factory=Links)
    leave: Callable[[], object] = lambda: None
    lengths: Sequence[OutputLengths] = ()
    entered: bool = False  # whether what enters the first layer has been seen
    calls: list[Call] = field(default_factory=list)
    layer: int | None = None  # of the latest call
    given: Tensor | None = None  # to its output projection
    _maskings: dict[int, tuple[Any, list["_Masking"]]] = field(default_factory=dict)
    _added: dict[int, tuple[Tensor, bool]] = field(default_factory=dict)

    def maskings(self, mask: Any) -> "list[_Masking]":
        """Return what a mask says of each sequence; worked out once, for all layers are given the same."""
        if mask is None:
            return [_Masking()] * len(self.sequences)
        found = self._maskings.get(id(mask))
        if found is None:  # the mask is kept, so that its id stays its own
            parts = [_part(mask, one, *self.at(one)) for one in self.sequences]
            made = [_masking(seen, parts[0].device) for seen in on_processor(parts)]  # a GPU is asked once
            found = self._maskings[id(mask)] = mask, made
        return found[1]

    def adds(self, bias: Tensor) -> bool:
        """Whether a bias is more than zeros; asked once, for layers are given the same."""
        found = self._added[id(bias)] = self._added.get(id(bias)) or (bias, bool(bias.any()))
        return found[1]

    def at(self, sequence: InputSequence) -> tuple[int, slice]:
        """Return where in [B, T, …] the rows of a sequence stand."""
        return (0, sequence.rows) if self.packed else (sequence.place, slice(0, sequence.queries))

    def finish_call(self) -> None:
        """Leave the pass where no sequence reads anything that is still to come."""
        layer = self.layer
        if self.ends and layer is not None and all(one.last_layer <= layer for one in self.sequences):
            raise DoneEarly

    def collect_z(self, z_BTD: Tensor) -> None:
        """Keep what the output projection made of the latest call."""
        collect_rows("z", self.layer, z_BTD.flatten(0, 1), self.sequences)

    def collect_entry(self, x_BTD: Tensor) -> None:
        """Keep what enters the first layer, and leave the pass where nothing else is asked for."""
        self.entered = True
        collect_rows("embedded", None, x_BTD.flatten(0, 1), self.sequences)
        if self.ends and all(one.last_layer < 0 for one in self.sequences):
            raise DoneEarly


_current: ContextVar[Pass | None] = ContextVar("pass", default=None)


def current() -> Pass | None:
    """Return the pass that this thread is in."""
    return _current.get()


@contextmanager
def in_pass(one: Pass) -> Iterator[None]:
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

    The signature is that of transformers' `AttentionInterface`; `s_aux`: sinks. No mask: `is_causal` decides.
    """
    now = current()
    assert now is not None, "a served model was called outside of a pass"
    cross = now.sequences[0].crosses and _is_cross(now, query, key)
    now.leave()
    now.layer = now.layer_of(len(now.calls))
    now.calls.append(Call(query.shape[1], key.shape[1], query.shape[3], value.shape[3], cross))
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    spec = AttentionSpec(
        scale=scaling, causal=causal and attention_mask is None and query.shape[2] > 1, softcap=softcap
    )
    own = [
        _own(now, one, rule, position_bias, cross=cross)
        for one, rule in zip(now.sequences, now.maskings(attention_mask), strict=True)
    ]
    rules = [
        _rule(replace(spec, **one.band) if one.band else spec, own=cross or s_aux is not None or one.more)
        for one in own
    ]

    def problem_of(sequence: InputSequence) -> Problem:
        batch, rows = now.at(sequence)
        keys = slice(0, sequence.keys) if cross else rows
        return prepare(
            query[batch, :, rows],
            key[batch, :, keys],
            value[batch, :, keys],
            spec=rules[sequence.place].spec,
            mask=own[sequence.place].mask,
            bias=own[sequence.place].added,
            sinks=s_aux,
            edits=sequence.edits_in(now.layer),
        )

    heads = Heads(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3], value.shape[3])
    output = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])
    groups = plan(now.sequences, rules, heads, now.layer)
    finish(_attend_groups(now, groups, (query, key, value), problem_of, output.flatten(0, 1)), now.leave)
    now.given = output
    if not any("z" in one.selection for one in now.sequences):
        now.finish_call()
    return output, None


def _rule(spec: AttentionSpec, *, own: bool) -> Rule:
    """Return a sequence's rule: what is its own is what this call says, not what the sequence has."""
    return Rule(spec, own=own, apart=own)


def _is_cross(now: Pass, query: Tensor, key: Tensor) -> bool:
    """Tell cross- from self-attention: by its place, where both lengths agree; every other call is one."""
    return key.shape[2] != query.shape[2] or len(now.calls) % 2 == 1


def _attend_groups(
    now: Pass, groups: Sequence[Group], qkv: Sequence[Tensor], problem_of: ProblemOf, output_NHV: Tensor
) -> Steps[None]:
    """Compute all groups, put their z in place and collect what else is asked of this layer."""
    made = []
    for group in groups:
        own = qkv
        if group.packed:  # else problems are read, and no rows need stand side by side
            own = [x_BHTD.transpose(1, 2).flatten(0, 1)[group.rows] for x_BHTD in qkv]
        q, k, v = own
        made.append((group, (yield from group.attend(q, k, v, problem_of))))
    now.links.edit_heads(made)
    for group, found in made:
        output_NHV[group.rows] = found.z
        if now.layer is not None:
            lengths = now.lengths[now.layer] if now.lengths else None
            yield from group.collect(now.layer, found, problem_of, lengths)


@dataclass(frozen=True, slots=True, eq=False)
class _Masking:
    """What one sequence's masks come to: fields of an AttentionSpec, or a mask, and what is added."""

    band: dict[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None  # bool [1 or H, T, S], or the sequence's own, [S] or [T, S]
    added: Tensor | None = None  # float32 [1 or H, T, S]

    @property
    def more(self) -> bool:
        """Whether it comes to more than a specification."""
        return self.mask is not None or self.added is not None


def _own(
    now: Pass, sequence: InputSequence, shared: _Masking, position_bias: Tensor | None, *, cross: bool
) -> _Masking:
    """Return a sequence's masking with its own mask, where this call is of the model, and its own bias."""
    own_mask = None if now.layer is None else sequence.mask
    biased = position_bias is not None and now.adds(position_bias)
    bias = _bias(position_bias, sequence, *now.at(sequence), cross=cross) if biased else None
    if own_mask is None and bias is None:
        return shared
    mask = shared.mask if own_mask is None else own_mask if shared.mask is None else shared.mask & own_mask
    added = shared.added if bias is None else bias if shared.added is None else bias + shared.added
    return _Masking(band=shared.band, mask=mask, added=added)


def _part(mask: Any, sequence: InputSequence, batch: int, rows: slice) -> Tensor:
    """Return what a mask [B or 1, H or 1, T or 1, S] says of one sequence, [H or 1, T or 1, S]."""
    if isinstance(mask, LazyMask):
        return mask.of(sequence)[None]
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        raise SpecError(f"the model makes masks of a kind that is not known here: {type(mask).__name__}")
    own = mask[batch if mask.shape[0] > 1 else 0]
    own = own[:, rows] if own.shape[1] > 1 else own
    return own[..., rows] if own.shape[2] != sequence.queries and not sequence.crosses else own


def _masking(own: Tensor, device: torch.device) -> _Masking:
    """Read a sequence's mask, on the processor: causal and sliding ones become a band, others are moved."""
    seen_HTS, added = own, None
    if own.dtype != torch.bool:
        seen_HTS = own > torch.finfo(own.dtype).min * MASKED
        added = own.float().masked_fill(~seen_HTS, 0.0)
        added = moved(added, device) if bool(added.any()) else None
    if bool(seen_HTS.all()):
        return _Masking(added=added)
    band = _band(seen_HTS[0]) if seen_HTS.shape[0] == 1 else None
    return _Masking(band=band, added=added) if band else _Masking(mask=moved(seen_HTS, device), added=added)


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


def _bias(position_bias: Any, sequence: InputSequence, batch: int, rows: slice, *, cross: bool) -> Tensor:
    """Return what is added to one sequence's scores, [H or 1, T, S]."""
    bias: Tensor = position_bias[batch if position_bias.shape[0] > 1 else 0]
    bias = bias[:, rows] if bias.shape[1] > 1 else bias
    return bias[..., slice(0, sequence.keys) if cross else rows].float()
