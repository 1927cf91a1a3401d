"""Which edits a whole model can have: those that come out as the library's own eager attention has them.

Eager attention is called as it is, with what edits add to scores in the mask that it is given; weights that
edits give are multiplied with its values, and its z is changed, before the output projection reads it. All
verbs are tried at once, and one by one where that is not enough.
"""

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from models.edit import VERBS, Edit, Verb
from models.edits.layer import LayerEdits, edits_by_layer
from models.errors import SpecError
from models.pretrained.interception import Call
from models.pretrained.probe_runs import Ours, eager
from models.pretrained.probe_samples import Sample
from models.pretrained.tower import Tower

NAME = "heed_edited_eager"
SEEN = 1e-3  # that edits must change of what is compared, for their probe to show anything


@dataclass(slots=True)
class _Edited:
    """One eager run: what is done in each layer, and what z of heads [H, T, d_v] came of it."""

    edits: dict[int, LayerEdits]
    layer_of: Callable[[int], int | None]
    others: dict[int, Tensor]  # z of each layer of the sequence from which it is taken
    z: dict[int, Tensor] = field(default_factory=dict)
    calls: int = 0


_now: ContextVar[_Edited] = ContextVar("edited")


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
) -> tuple[Tensor, Any]:
    """Return what the model's own eager attention gives, edited: z [B, T, H, d_v]."""
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise SpecError("its attention has no eager form that edits could be compared with")
    now = _now.get()
    layer, now.calls = now.layer_of(now.calls), now.calls + 1
    edits = LayerEdits() if layer is None else now.edits.get(layer, LayerEdits())
    if edits.scores is not None:
        attention_mask = _masked(edits, attention_mask, query, key)
    z, weights = own(module, query, key, value, attention_mask, **more)
    if layer is None:
        return z, weights
    (z_THV,) = z = z.clone()
    if edits.patterns is not None:
        group, (rows, heads) = query.shape[1] // key.shape[1], z_THV.shape[:2]
        made = torch.zeros(heads, rows, key.shape[2])
        edits.patterns.put(made, range(heads), range(rows), diagonal=0, blocked=None)
        for one in edits.patterns.edits:
            among = one.queries.among(range(rows), z.device)
            for head in one.heads:
                given = made[head] @ value[0, head // group]
                z_THV[:, head] = (
                    given if among is None else torch.where(among[:, None], given, z_THV[:, head])
                )
    if edits.heads is not None:
        edits.heads.apply(z_THV, lambda _: now.others[layer].transpose(0, 1))
    now.z[layer] = z_THV.transpose(0, 1)
    return z, weights


def _masked(edits: LayerEdits, mask: Any, query: Tensor, key: Tensor) -> Tensor:
    """Return a mask with what edits add to scores."""
    assert edits.scores is not None
    heads, rows, keys = query.shape[1], query.shape[2], key.shape[2]
    added, blocked = edits.scores.block(range(heads), range(rows), slice(0, keys), query.device)
    made = torch.zeros(1, heads, rows, keys) if mask is None else mask[..., :keys]
    if made.dtype == torch.bool:
        made = torch.zeros(made.shape).masked_fill(~made, torch.finfo(torch.float32).min)
    made = made if added is None else made + added
    return made if blocked is None else made.masked_fill(blocked, torch.finfo(torch.float32).min)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)


@dataclass(slots=True)
class EditProbe:
    """Tries verbs on samples of a probe: `ours` runs them by our attention, `check` raises SpecError."""

    tower: Tower
    call: Call
    switch: Callable[[str], None]
    ours: Callable[..., Ours]
    check: Callable[[str, Tensor, Tensor], None]

    def find(self, sample: Sample, other: Sample) -> None:
        """Set which verbs the tower can have, and why not others; both samples have one length."""
        tower, reasons = self.tower, dict[str, str]()
        verbs = list(VERBS)
        if not tower.packs:
            verbs.remove("from")
            reasons["from"] = f"sequences of this model do not run side by side, but {tower.batches}"
        if self._reason(verbs, sample, other) is not None:
            for verb in list(verbs):
                reason = self._reason([verb], sample, other)
                if reason is not None:
                    verbs.remove(verb)
                    reasons[verb] = reason
        tower.edits, tower.no_edits = tuple(verbs), {f"edits.{verb}": why for verb, why in reasons.items()}

    def _reason(self, verbs: Sequence[Verb], sample: Sample, other: Sample) -> str | None:
        """Return why verbs cannot be offered together, None where they come out right."""
        edits = [one for one in self._edits(sample) if one.verb in verbs]
        try:
            _, z = self._eager(other, [], {})
            plain, _ = self._eager(sample, [], {})
            expected, _ = self._eager(sample, edits, z)
            made = self._run(sample, other, edits)
            self.check("a sequence with edits", made, expected)
        except SpecError as problem:
            return str(problem)
        if not bool((plain - expected).abs().max() > SEEN * plain.abs().max()):
            return "they change nothing of a short sequence, so that nothing can be shown"
        return None

    def _run(self, sample: Sample, other: Sample, edits: Sequence[Edit]) -> Tensor:
        """Return the last hidden states of one sample of which z may be another's, [T, d]."""
        if not any(one.verb == "from" for one in edits):
            return self.ours(sample, edits=[edits]).hidden[0]
        return self.ours(sample, other, packed=True, edits=[edits, []]).hidden[0, : sample.rows]

    def _eager(
        self, sample: Sample, edits: Sequence[Edit], others: dict[int, Tensor]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        self.switch(NAME)
        now = _Edited(edits_by_layer(edits), self.tower.layer_of, others)
        token = _now.set(now)
        try:
            return eager(self.tower, sample, attentions=False).hidden[0], now.z
        finally:
            _now.reset(token)

    def _edits(self, sample: Sample) -> list[Edit]:
        """Return an edit of each verb, on the first and the last layer; no row is left nothing to attend."""
        chance = np.random.default_rng(0)
        rows, heads = sample.rows, self.call.heads
        keys = rows if sample.memory is None or self.tower.first_call == 0 else len(sample.memory)
        at = tuple(dict.fromkeys(((0, heads - 1), (self.tower.layers - 1, 0))))
        later = ((rows // 2, rows),)
        given = chance.dirichlet(np.ones(keys), rows - rows // 2).astype(np.float32)
        z = chance.standard_normal((len(at), rows - rows // 2, self.call.d_v), dtype=np.float32)
        return [
            Edit(verb="add", at=at, queries=later, keys=((0, 2),), value=1.5),
            Edit(verb="block", at=at, queries=later, keys=((1, 2),)),
            Edit(verb="pattern", at=at[:1], queries=((rows - 1, rows),), value=given[-1:]),
            Edit(verb="set", at=at[:1], queries=((rows - 2, rows - 1),), value=z[:1, :1]),
            Edit(verb="from", at=at[-1:], queries=((1, 2),), source=1),
            Edit(verb="scale", at=at, queries=((0, rows - 1),), value=-0.5),
        ]
