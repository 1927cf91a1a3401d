"""A whole model built by another library, run on batches of Items: what Stack is to our own encoder.

Sequences are packed into one row where the architecture allows it, stacked with those of equal length where
it does not, and run one by one where even that changes them; no padding is ever computed. Ids stay ids: what
a model does with them, such as finding positions or a scale, is the model's own.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.attention.backends import attention_names
from models.attention.lengths import OutputLengths
from models.attention.problem import Heads, Rule
from models.attention.sequence import InputSequence, collect_block, pack
from models.device.answers import answers, together
from models.device.staging import tensor_of
from models.device.steps import AtYield, Steps, finish
from models.edit import Verb, moved
from models.encoder.layers.plans import Links
from models.encoder.pooling import Pooling
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.predictions.predicting import PREDICTED
from models.pretrained.foreign_steps import foreign_steps
from models.pretrained.interception import Call, Pass, current, in_pass
from models.protocol import Answer, Answers, Failure, Item, Tokens

APART = (
    "z is taken from an input that this model does not run side by side with this one; send both as token "
    "ids or both as embeddings, and without a mask"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What sequences of one pass share; `alone` is 0, or a number that no other sequence has."""

    ids: bool
    masked: bool
    packed: bool
    sizes: tuple[int, int]
    alone: int


@dataclass(slots=True, eq=False, kw_only=True)
class Tower:
    """One stack of layers, of which one attention a layer is served.

    `forward` takes what the module's own forward does. `calls_per_layer` is 2 where each layer has self- and
    cross-attention, and `first_call` says which of the two is served. The probe finds whether sequences may
    run in one row (`packs`) or stacked (`stacks`), whether the model is given ids (`by_ids`) and may be given
    embeddings (`embeds`), and what a mask of keys means (`masks`): attention alone, or more, so that the
    model must be `given` it (OPT counts positions by it), or nothing that can be served.
    """

    forward: Callable[..., Any]
    parameters: frozenset[str]  # names that `forward` takes
    device: torch.device
    dtype: torch.dtype
    layers: int
    table: torch.nn.Module | None = None  # ids to embeddings, of so many words
    vocabulary: int = 0
    pooling: Pooling | None = None
    calls_per_layer: int = 1
    first_call: int = 0
    packs: bool = False
    stacks: bool = True
    by_ids: bool = False
    embeds: bool = True
    masks: Literal["attention", "given", "none"] = "attention"
    types: int = 0  # rows of the table of token types
    lengths: Sequence[OutputLengths] = ()  # a layer, where the output projections were found
    words: Any = None  # what predicts words, where it does: a ForeignWords
    predict: Callable[[int, Tensor, Sequence[InputSequence]], Steps[None]] | None = None
    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)  # held while a batch runs
    edits: tuple[Verb, ...] = ()  # verbs that the probe has shown; why others are not among them
    no_edits: dict[str, str] = field(default_factory=dict)

    @property
    def batches(self) -> str:
        """How sequences run together, in words."""
        return "packed" if self.packs else "by length" if self.stacks else "one by one"

    def kernel(self, call: Call) -> str:
        """Return how sequences run together, and which backends compute attention in calls like this one."""
        heads = Heads(self.device, self.dtype, call.heads, call.key_heads, call.d_k, call.d_v)
        return (
            f"transformers, {self.batches}, {attention_names(heads, [Rule(AttentionSpec(), own=call.cross)])}"
        )

    def run(self, items: Sequence[Item], at_yield: AtYield = lambda: None) -> Answers:
        """Return what `steps` comes to, on this thread; `at_yield` is called at every yield point."""
        return finish(self._passes(items, at_yield))

    def steps(self, items: Sequence[Item]) -> Steps[Answers]:
        """Return one Answer or Failure an item, in order; all items are of this model.

        Yields in every layer and between parts of long attention, though the layers are another library's.
        """
        return self._passes(items, None)

    def _passes(self, items: Sequence[Item], at_yield: AtYield | None) -> Steps[Answers]:
        answers: dict[int, Answer | Failure] = {}
        groups: dict[_Kind, list[int]] = {}
        for place, item in enumerate(items):
            given = item.input
            assert isinstance(given, Tokens)
            wrong = self._refusal(given) or self._blind(item.selection)
            if wrong is not None:
                answers[place] = Failure(code="invalid", message=wrong)
            else:
                groups.setdefault(self._kind(given, place), []).append(place)
        for kind, places in groups.items():
            while apart := [place for place in places if not _has_sources(items[place], places)]:
                answers |= dict.fromkeys(apart, Failure(code="invalid", message=APART))
                places[:] = [place for place in places if place not in apart]
            if not places:
                continue
            with self.lock:
                inside = [
                    replace(items[place], edits=moved(items[place].edits, places.index)) for place in places
                ]
                one_pass = partial(self._pass, inside, kind)
                found = one_pass(at_yield) if at_yield else (yield from foreign_steps(one_pass))
            answers |= dict(zip(places, found, strict=True))
        return [answers[place] for place in range(len(items))]

    def _refusal(self, given: Tokens) -> str | None:
        """Say why a sequence cannot be run, None where it can."""
        if self.calls_per_layer == 2 and given.memory is None:
            return "a decoder needs memory [S, d_model], the hidden states of the encoder's last layer"
        if given.embeddings is not None and not self.embeds:
            return "this model does more with token ids than to look them up; send token_ids"
        if self._mask_means_more(given) and self.masks == "none":
            return "what this model makes of a mask of keys is not known here; leave mask out"
        if self.types and given.type_ids is not None and int(given.type_ids.max()) >= self.types:
            highest = int(given.type_ids.max())
            return f"a token is of type {highest}; the model has types 0 to {self.types - 1}"
        return None

    def _blind(self, selection: Selection) -> str | None:
        """Say why words cannot be predicted of layers, None where they can or nobody asks."""
        if self.words is None or self.words.lens or PREDICTED.isdisjoint(selection.outputs):
            return None
        if set(selection.layers) <= {self.layers - 1}:
            return None
        return "what stands between this model's layers and its table is not known: predict of the last layer"

    def _mask_means_more(self, given: Tokens) -> bool:
        """Whether a sequence has a mask of keys that means more to the model than what is attended."""
        mask = given.mask
        return self.masks != "attention" and mask is not None and mask.ndim == 1 and not bool(mask.all())

    def _kind(self, given: Tokens, place: int) -> _Kind:
        """Return what a sequence must share with those that run in one pass with it."""
        masked = self._mask_means_more(given)
        packed = self.packs and not masked
        return _Kind(
            ids=given.ids is not None,
            masked=masked,
            packed=packed,
            sizes=(0, 0) if packed else (given.queries, 0 if given.memory is None else given.keys),
            alone=0 if packed or self.stacks else place + 1,
        )

    def layer_of(self, call: int) -> int | None:
        """Return which layer the n-th call of a pass is, None where it is the attention not served."""
        layer, kind = divmod(call, self.calls_per_layer)
        return layer if kind == self.first_call else None

    def _pass(self, items: Sequence[Item], kind: _Kind, leave: AtYield) -> Answers:
        """Run one forward pass over sequences that fit together; their edits' sources are places in it."""
        sequences = [
            InputSequence.of(item, self.device, place=place, outlives=True)
            for place, item in enumerate(items)
        ]
        pack(sequences)
        together([one.collector for one in sequences])
        ends = not any(one.needs_block for one in sequences)
        middle = self.layers - 1 > min(min(one.selection.layers) for one in sequences)
        now = Pass(
            sequences=sequences,
            layer_of=self.layer_of,
            ends=ends,
            packed=kind.packed,
            links=Links.of(sequences),
            leave=leave,
            lengths=self.lengths,
        )
        extra = {"output_hidden_states": True} if not ends and middle else {}
        with in_pass(now):
            out = self.forward(**self._inputs(sequences, kind), **extra)
            if not ends:
                self._collect_block(out, sequences, leave)
        return answers([one.collector for one in sequences])

    def arguments(
        self,
        rows: Sequence[Tensor],
        *,
        by_ids: bool,
        packed: bool = False,
        memories: Iterable[Tensor | None] = (),
        masks: Iterable[Tensor | None] = (),
        types: Sequence[Tensor] = (),
    ) -> dict[str, Any]:
        """Return the arguments of a forward pass, each [1, N, …] packed or [B, T, …] stacked.

        `rows`: of each sequence, ids [T] or embeddings [T, d]; those that have no memory or mask are of none.
        """
        join = (lambda parts: torch.cat(parts)[None]) if packed else torch.stack
        named = {"input_ids" if by_ids else "inputs_embeds": join(list(rows))}
        if packed:
            named["position_ids"] = join([torch.arange(len(one), device=one.device) for one in rows])
        if given := [mask.long() for mask in masks if mask is not None]:
            named["attention_mask"] = torch.stack(given)
        if given := [memory for memory in memories if memory is not None]:
            named["encoder_hidden_states"] = torch.stack(given)
        if types:
            named["token_type_ids"] = join(list(types))
        return named | ({"use_cache": False} if "use_cache" in self.parameters else {})

    def _inputs(self, sequences: Sequence[InputSequence], kind: _Kind) -> dict[str, Any]:
        given = [one.given for one in sequences if one.given is not None]
        typed = self.types and any(one.type_ids is not None and one.type_ids.any() for one in given)
        return self.arguments(
            [self._source(one) for one in given],
            by_ids=kind.ids and self.by_ids,
            packed=kind.packed,
            memories=[None if one.memory is None else self._vectors(one.memory) for one in given],
            masks=[one.mask for one in sequences] if kind.masked else (),
            types=[self._types(one) for one in given] if typed else (),
        )

    def _source(self, given: Tokens) -> Tensor:
        """Return ids [T], or embeddings [T, d]: those given, or looked up where the model takes no ids."""
        if given.embeddings is not None:
            return self._vectors(given.embeddings)
        ids = tensor_of(given.ids, self.device, torch.int64)
        if self.by_ids:
            return ids
        assert self.table is not None
        embedded: Tensor = self.table(ids[None])[0]
        return embedded

    def _vectors(self, array: Any) -> Tensor:
        return tensor_of(array, self.device, self.dtype)

    def _types(self, given: Tokens) -> Tensor:
        types = np.zeros(given.queries, np.int64) if given.type_ids is None else given.type_ids
        return tensor_of(types, self.device, torch.int64)

    def _collect_block(self, out: Any, sequences: Sequence[InputSequence], leave: AtYield) -> None:
        """Collect `hidden`, `pooled`, predictions; the last layer's are of what follows its final norm."""
        for layer in {layer for one in sequences for layer in one.selection.layers}:
            last = layer == self.layers - 1
            hidden = out.last_hidden_state if last else out.hidden_states[layer + 1]
            pooling = None if self.pooling is None else self.pooling.each
            x_ND = hidden.flatten(0, 1)
            collect_block(layer, x_ND, sequences, pooling)
            if self.predict is not None:
                finish(self.predict(layer, x_ND if last else self.words.normed(x_ND), sequences), leave)


def _has_sources(item: Item, places: Sequence[int]) -> bool:
    """Whether all that edits take z from is in one pass with it."""
    return all(edit.source is None or edit.source in places for edit in item.edits)


def collect_z(_module: torch.nn.Module, _inputs: Any, output: Tensor) -> None:
    """Keep z: a forward hook of an output projection."""
    now = current()
    if now is not None and now.layer is not None:
        now.collect_z(output)
        now.finish_call()
