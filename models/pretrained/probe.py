"""What a whole model must show before it is served: that every attention in it is ours, and right.

Short sequences and one of at least 300 rows go through the library's own eager attention and through ours, in
float32, as they are served. How far two right computations may be apart is a property of the model: a float64
copy would double the memory of a large one, and is none, for much of the library computes in float32 whatever
it is given. So it is measured: eager runs again, every linear off by a rounding error, and ours may be as far
from eager as that is, eight times over. What is beyond it is arithmetic, not luck. Sequences that run
together, in one row or stacked, are compared with eager's alone.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.edit import VERBS
from models.errors import SpecError
from models.pretrained.interception import Call
from models.pretrained.probe_edits import EditProbe
from models.pretrained.probe_runs import Eager, Ours, PositionTables, eager, ours
from models.pretrained.probe_samples import Sample, Samples, Trial
from models.pretrained.tower import Tower

TOLERANCE = 1e-5  # of the largest number, at least 1
NOISES = 8  # of eager's own rounding, that ours may be away
MOST_NOISE = 1e-3  # times NOISES: beyond it, nothing can be told from rounding
LENGTH, SHORTER = 9, 7
SHORT = (9, 6)

Switch = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the probe found: sizes of every call, the projection after each, how many positions there are."""

    call: Call
    d_model: int
    projections: tuple[torch.nn.Module, ...] | None
    positions: int | None


def probe(
    tower: Tower, switch: Switch, candidates: Iterable[torch.nn.Module], trial: Trial, *, packs: bool
) -> Shape:
    """Return the sizes of a tower's attention; leave ours switched on.

    Sets what the tower is found to be: its `layers`, and `packs`, `stacks`, `by_ids`, `embeds`, `masks` and
    `edits`.
    `switch` chooses the attention by name; `candidates` are the linears among which output projections are
    looked for; `packs`: whether one row of several sequences is tried at all. Raises SpecError.
    """
    with torch.inference_mode():
        found = _Probe(tower, switch, list(candidates), trial)
        shape = found.alone()
        found.together(packs=packs)
        found.masked()
        found.stacked()
        found.edits(shape.call)
    switch("heed")
    return shape


class _Probe:
    """The steps of a probe, which share their samples."""

    def __init__(self, tower: Tower, switch: Switch, linears: list[torch.nn.Module], trial: Trial) -> None:
        self._tower, self._switch, self._linears, self._trial = tower, switch, linears, trial
        self._samples = Samples(tower, trial)
        self._noise = 0.0
        self._limit = trial.positions
        tower.by_ids = self._samples.by_ids

    def alone(self) -> Shape:
        """Compare every attention of one sequence, and how the model takes ids and embeddings."""
        tower = self._tower
        one = self._samples.plain(self._within(LENGTH))
        words = None if tower.table is None else getattr(tower.table, "weight", None)
        tables = PositionTables(words)
        expected = self._eager(one, tables=tables)
        if tables.limit() is not None:
            self._eager(self._samples.plain(self._within(SHORTER)), tables=tables, moved=False)
        if (rows := tables.limit()) is not None:
            self._limit = rows if self._limit is None else min(self._limit, rows)
        seen = self._ours(one, weights=True, candidates=self._linears)
        _check_calls(tower, seen.calls, expected.weights)
        for number, weights in enumerate(expected.weights):
            what = f"the weights of attention {number}"
            _check(what, seen.weights[0][number], weights[0], expected.noises[number])
        self._noise = expected.noise
        self._compare("the last hidden state", seen.hidden[0], expected)
        tower.embeds = not tower.by_ids or self._embeds(one, expected)
        called = [seen.projections.get(number) for number in range(len(seen.calls))]
        served = called[tower.first_call :: tower.calls_per_layer]
        width = int(seen.hidden.shape[-1])
        whole = tuple(one for one in served if one is not None and _gives(one) == width)
        return Shape(
            call=seen.calls[tower.first_call],
            d_model=width,
            projections=whole if len(whole) == len(served) else None,
            positions=self._limit,
        )

    def together(self, *, packs: bool) -> None:
        """Compare a long sequence; find whether others may run behind it in one row, or several stacked."""
        tower = self._tower
        samples = [self._samples.plain(self._within(self._trial.rows))]
        samples += [self._samples.special(self._within(length)) for length in SHORT]
        expected = [self._eager(samples[0], attentions=False)]
        self._noise = max(self._noise, expected[0].noise)
        expected += [self._eager(sample, attentions=False, moved=False) for sample in samples[1:]]
        if packs and tower.calls_per_layer == 1 and self._packs(samples, expected):
            tower.packs = True
            return
        for sample, right in list(zip(samples, expected, strict=True))[:2]:
            self._compare(f"a sequence of {sample.rows} rows", self._ours(sample).hidden[0], right)

    def masked(self) -> None:
        """Find what a mask means: attention alone, or more, as where positions count what is kept."""
        tower = self._tower
        if "attention_mask" not in tower.parameters or tower.first_call == 1 or self._within(LENGTH) < LENGTH:
            return
        sample = self._samples.masked(LENGTH)
        assert sample.mask is not None
        try:
            expected = self._eager(sample, attentions=False, moved=False)
        except SpecError:
            return  # the library cannot either: what is not attended is all that a mask can mean
        expected.hidden = expected.hidden[:, sample.mask]
        for give in (False, True):
            try:
                made = self._ours(sample, give_mask=give).hidden[0][sample.mask]
                self._compare("a masked sequence", made, expected)
            except SpecError:
                continue
            tower.masks = "given" if give else "attention"
            return
        tower.masks = "none"

    def stacked(self) -> None:
        """Find whether sequences of equal length, as many as make the rows of the long one, change others."""
        tower = self._tower
        if tower.packs and tower.masks != "given":
            return  # they are never stacked
        length = self._within(LENGTH)
        samples = [self._samples.special(length) for _ in range(-(-self._trial.rows // length))]
        samples[0] = self._samples.plain(length)  # no two with the same numbers of special tokens
        try:
            made = self._ours(*samples)
            for place in (0, len(samples) - 1):
                right = self._eager(samples[place], attentions=False, moved=False)
                self._compare("one of several sequences", made.hidden[place], right)
        except SpecError:
            tower.stacks = False

    def edits(self, call: Call) -> None:
        """Find which edits come out as they do in eager attention."""
        length = self._within(LENGTH)
        if length < LENGTH:
            self._tower.no_edits = dict.fromkeys(
                (f"edits.{verb}" for verb in VERBS),
                f"the model has {length} positions; the probe needs {LENGTH}",
            )
            return
        noise = self._noise
        made = EditProbe(
            self._tower,
            call,
            self._switch,
            self._ours,
            lambda what, made, right: _check(what, made, right, noise),
        )
        made.find(self._samples.plain(length), self._samples.plain(length))

    def _embeds(self, one: Sample, expected: Eager) -> bool:
        """Whether rows of the table of words, given as embeddings, do what the ids do."""
        try:
            made = self._ours(self._samples.embedded(one)).hidden[0]
            self._compare("the same as embeddings", made, expected)
        except SpecError:
            return False
        return True

    def _packs(self, samples: list[Sample], expected: list[Eager]) -> bool:
        """Whether sequences in one row, told apart by their positions, come out as eager's alone do."""
        try:
            row, start = self._ours(*samples, packed=True).hidden[0], 0
            for sample, right in zip(samples, expected, strict=True):
                self._compare("a packed sequence", row[start : start + sample.rows], right)
                start += sample.rows
        except SpecError:
            return False
        return True

    def _compare(self, what: str, hidden: Tensor, expected: Eager) -> None:
        _check(what, hidden, expected.hidden[0], max(self._noise, expected.noise))

    def _eager(
        self,
        sample: Sample,
        *,
        attentions: bool = True,
        moved: bool = True,
        tables: PositionTables | None = None,
    ) -> Eager:
        """Run eager attention, and again with its rounding `moved`; set how many layers there are."""
        self._switch("eager")
        with nullcontext() if tables is None else tables.of(sample.rows):
            found = eager(self._tower, sample, attentions=attentions)
        if attentions:
            self._tower.layers = found.layers
        if moved:
            other = eager(self._tower, sample, attentions=attentions, moving=self._linears)
            found.noise = _away(other.hidden, found.hidden)
            found.noises = [_away(*pair) for pair in zip(other.weights, found.weights, strict=True)]
        return found

    def _ours(self, *samples: Sample, **options: Any) -> Ours:
        self._switch("heed")
        return ours(self._tower, samples, **options)

    def _within(self, length: int) -> int:
        """Return a length that the model has positions for."""
        return length if self._limit is None else max(1, min(length, self._limit))


def _gives(projection: torch.nn.Module) -> int | None:
    """Return the width of what a linear gives, by either of the library's two classes of them."""
    width = getattr(projection, "out_features", None) or getattr(projection, "nf", None)
    return width if isinstance(width, int) else None


def _check_calls(tower: Tower, calls: Sequence[Call], attentions: Sequence[Tensor | None]) -> None:
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


def _check(what: str, actual: Tensor, expected: Tensor, noise: float) -> None:
    """Raise SpecError where two tensors are further apart than rounding takes them."""
    if actual.shape != expected.shape:
        raise SpecError(f"{what}: shape {list(actual.shape)}, by eager attention {list(expected.shape)}")
    limit = max(TOLERANCE, NOISES * noise) if noise <= MOST_NOISE else TOLERANCE
    away = _away(actual, expected)
    if not away <= limit:
        raise SpecError(f"{what}: away from eager attention by {away:.1e}, over {limit:.1e}")


def _away(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number or 1; NaN where there is one."""
    if actual.numel() == 0:
        return 0.0
    return float((actual - expected).abs().max()) / max(1.0, float(expected.abs().max()))
