"""Every output but z: computed for the chosen heads and rows only, from q, k and the rows' logsumexp.

A weight is exp(scale·q·k + bias − logsumexp): nothing of the fused pass is kept but one number a row, and
whole rows of weights do not even need that. Outputs asked for together share one walk over blocks of
rows; those that are no function of a score do not walk at all.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from models.lengths import OutputLengths, value_lengths
from models.masks import take
from models.outputs import Selection, made_of
from models.scores import Block, Problem, View, view_of
from models.spans import between_spans
from models.topk import largest

__all__ = ["derive"]

TOP_K = made_of("top_k")
NORMS = made_of("norms")
OF_WEIGHTS = made_of("weights") | NORMS
GIVEN = made_of("projected")
DERIVED = made_of("scores") | TOP_K | OF_WEIGHTS | GIVEN


def derive(
    problem: Problem,
    lse_HT: Tensor | None,
    selection: Selection,
    *,
    output_lengths: OutputLengths | None = None,
) -> dict[str, Tensor]:
    """Return every attention-level output of a selection, shaped as `outputs.shape_of` says, no layer axis.

    `lse_HT`: float32 [H, T] as `contextualize` gives it; None computes it for the rows that are read, which
    is right when z is not wanted. `output_lengths`: of the layer, for `output_norms`; it must be there where
    they are asked for. All float32, `top_k_keys` int32. Heads and rows come in the order asked,
    key heads ascending. Rows that may attend nothing: weights, entropy and rest 0, logsumexp −inf, keys any.
    """
    asked = set(selection.outputs) & DERIVED
    made: dict[str, Tensor] = {}
    if selection.spans is not None and "weights" in asked:
        made["weights"] = between_spans(problem, lse_HT, heads=selection.heads, spans=selection.spans)
        asked.remove("weights")
    if asked:
        view = view_of(problem, lse_HT, heads=selection.heads, rows=selection.rows)
        made |= _given(view, asked & GIVEN)
        lengths = _lengths(view, asked & NORMS, output_lengths)
        made |= _walk(view, asked - GIVEN, lengths, k=min(selection.top_k, problem.k.shape[1]))
    return {name: made[name] for name in selection.outputs if name in made}


def _given(view: View, names: Set[str]) -> dict[str, Tensor]:
    """Return q, k, v as they were given: chosen heads and rows of q, each key head that they read once."""
    made = {}
    if "queries" in names:
        made["queries"] = take(take(view.problem.queries, 0, view.heads), 1, view.rows)
    for name, tensor in (("keys", view.problem.keys), ("values", view.problem.values)):
        if name in names:
            made[name] = take(tensor, 0, sorted(set(view.key_heads)))
    return {name: tensor.float().contiguous() for name, tensor in made.items()}


def _lengths(view: View, names: Set[str], output_lengths: OutputLengths | None) -> dict[str, Tensor]:
    """Return how long values are to each chosen head [H', S], as each of the norms asked for means it."""
    made = {}
    for name in names:
        of = value_lengths if name == "value_norms" else output_lengths
        assert of is not None, f"{name} is asked for where it is not offered"
        made[name] = of(view.problem.values, view.heads, group=view.problem.group)
    return made


def _walk(view: View, names: Set[str], lengths: Mapping[str, Tensor], *, k: int) -> dict[str, Tensor]:
    """Return outputs that are functions of scores or of a row's logsumexp."""
    walk = _Walk(view=view, out=_allocate(view, names, k=k), reads_lse="lse" in names, lengths=lengths)
    if names - {"lse"} or (names and not view.known):
        for block in view.blocks():
            walk.visit(block)
    if "weights_mean" in names:
        walk.out["weights_mean"].div_(len(view.heads))
    if "lse" in names:
        walk.out["lse"] = view.lse.clone()
    return walk.out


@dataclass(frozen=True, slots=True, eq=False)
class _Walk:
    """Outputs being filled, block by block."""

    view: View
    out: dict[str, Tensor]
    reads_lse: bool
    lengths: Mapping[str, Tensor]  # of values [H', S], by the norms that are made of them

    def visit(self, block: Block) -> None:
        """Compute one block and serve every output from it; weights take the place of its scores last."""
        view, out = self.view, self.out
        scored = view.scores(block, into=out.get("weights"))
        if self.reads_lse:
            view.note_lse(block, scored)
        if "scores" in out:
            out["scores"][block.heads, block.rows, block.keys] = scored.scores
        keys = self._largest(scored.scores) if "top_k_weights" in out else None
        if OF_WEIGHTS.isdisjoint(out) and keys is None:
            return
        below = None
        if "entropy" in out:  # finite, so that a weight of 0 adds 0
            peak = scored.scores.amax(-1, keepdim=True)
            below = (scored.scores - peak.masked_fill(peak == -math.inf, 0.0)).clamp_(min=-1e4)
        weights = view.weights(block, scored)
        if keys is not None:
            self._top_k(block, keys, weights)
        if below is not None:
            out["entropy"][block.heads, block.rows] = _entropy(weights, below)
        self._reduce(block, weights)

    def _largest(self, scores: Tensor) -> Tensor:
        """Return where the k largest scores of each row are: of equal weights the larger score counts."""
        return largest(scores, min(self.out["top_k_weights"].shape[-1], scores.shape[-1]))[1]

    def _top_k(self, block: Block, keys: Tensor, weights: Tensor) -> None:
        """Write the k largest weights of each row, which are those of its k largest scores.

        Where fewer than k keys are in sight, keys out of sight make up the number, with weight 0.
        """
        k = keys.shape[-1]
        most = weights.gather(-1, keys)
        self.out["top_k_weights"][block.heads, block.rows, :k] = most
        if "top_k_rest" in self.out:
            rest = weights.sum(-1) - most.sum(-1)
            self.out["top_k_rest"][block.heads, block.rows] = rest.clamp_(min=0.0)
        if "top_k_keys" in self.out:
            place = self.out["top_k_keys"][block.heads, block.rows]
            place[..., :k] = keys.add_(block.keys.start)
            if k < place.shape[-1]:
                unseen = chain(range(block.keys.start), range(block.keys.stop, self.view.k.shape[1]))
                place[..., k:] = torch.tensor([*islice(unseen, place.shape[-1] - k)], device=place.device)

    def _reduce(self, block: Block, weights: Tensor) -> None:
        """Put one block of weights where the outputs want it."""
        out, heads, rows, keys = self.out, block.heads, block.rows, block.keys
        if "weights" in out:
            place = out["weights"][heads, rows, keys]
            if place.data_ptr() != weights.data_ptr():
                place.copy_(weights)
        if "weights_mean" in out:
            out["weights_mean"][rows, keys] += weights.sum(0)
        if "weights_max" in out:
            place = out["weights_max"][rows, keys]
            torch.maximum(place, weights.amax(0), out=place)
        if "received" in out:
            out["received"][heads, keys] += weights.sum(-2)
        for name, lengths in self.lengths.items():
            long = lengths[heads, None, keys]
            place = out[name][heads, rows, keys].copy_(weights * long)
            if not bool(long.isfinite().all()):  # a weight of 0 takes nothing, whatever the value
                place.masked_fill_(weights == 0, 0.0)


def _entropy(weights: Tensor, below: Tensor) -> Tensor:
    """Return −Σ w·ln w of each row, whose scores lie `below` its largest; `below` is overwritten.

    ln w is that less than the largest weight's: so nothing large is subtracted from anything large.
    """
    largest_ln = weights.amax(-1).clamp_(min=torch.finfo(weights.dtype).tiny).log_()
    return below.mul_(weights).sum(-1).add_(largest_ln.mul_(weights.sum(-1))).neg_().add_(0.0)


def _allocate(view: View, names: Set[str], *, k: int) -> dict[str, Tensor]:
    """Return the outputs that a walk fills, holding what is true of keys that no row sees."""
    H, T, S = len(view.heads), len(view.rows), view.k.shape[1]
    shapes: dict[str, tuple[int, ...]] = {
        "scores": (H, T, S),
        "weights": (H, T, S),
        **dict.fromkeys(NORMS, (H, T, S)),
        "weights_mean": (T, S),
        "weights_max": (T, S),
        "received": (H, S),
        "entropy": (H, T),
        "top_k_keys": (H, T, k),
        "top_k_weights": (H, T, k),
        "top_k_rest": (H, T),
    }
    top_k = set() if TOP_K.isdisjoint(names) else {"top_k_weights"}  # the others are made from it
    out = {}
    for name in shapes.keys() & (names | top_k):
        dtype = torch.int32 if name == "top_k_keys" else torch.float32
        out[name] = torch.empty(shapes[name], dtype=dtype, device=view.q.device)
        if name not in ("scores", "weights", *NORMS):
            out[name].zero_()
        elif view.problem.visibility.band is not None:  # else every place is written
            out[name].fill_(-math.inf if name == "scores" else 0.0)
    if "top_k_keys" in out:  # a row that sees nothing keeps these
        out["top_k_keys"].copy_(torch.arange(k, device=view.q.device))
    return out
