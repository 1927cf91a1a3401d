"""Every output but z: for the chosen heads and rows only, from weights, or from q, k and the logsumexp.

`reduced` makes of one block of weights what it gives to each output. Where the pass that made z has held all
weights, they are that block (`reduce_weights`); else `derive` walks blocks of rows of bounded size, in which
outputs asked for together share the weights. Those that are no function of a score do not walk at all. What
compiled code makes on the way to z (`models/compiled/kinds/native_outputs.h`) is not made here again.
"""

import math
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from models.attention.blocks import Block, View, compact, view_of
from models.attention.lengths import OutputLengths, value_lengths
from models.attention.masks import select
from models.attention.problem import Problem
from models.attention.spans import between_spans
from models.attention.sums.mixtures import mixture
from models.attention.sums.profiles import Profiles
from models.attention.sums.shares import Shares
from models.device.staging import tensor_of
from models.device.steps import Steps
from models.outputs import ALIASES, OUTPUTS, Selection, made_of

OF_WEIGHTS = made_of("weights", "top_k")
TOP_K = ALIASES["top_k"]
NORMS = made_of("norms")
SUMS = made_of("sums")
GIVEN = made_of("projected")
DERIVED = made_of("scores") | OF_WEIGHTS | SUMS | NORMS | GIVEN
CHUNK = 64
# Below this, torch's own partial sort of the whole row is quicker (measured on a CPU with k = 8).
LONG_ROW = 4096
# Outputs whose blocks are added up, or compared; every other is put in its place.
JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weights_mean": Tensor.add_,
    "received": Tensor.add_,
    "weights_max": lambda place, block: torch.maximum(place, block, out=place),
}


def reduced(weights_HRK: Tensor, names: Collection[str], *, k: int) -> dict[str, Tensor]:
    """Return what a block of weights, float32, gives to each of the outputs that are made of weights.

    `weights` are the block itself. `weights_mean` is a sum, until it is divided by the number of heads; it
    and `weights_max` [R, K] are of the block's heads, `received` [H, K] of its rows. `entropy` −Σ w·ln w
    [H, R], in nats; of the `k` largest weights of each row where they are, int32 [H, R, k], they, and the
    mass left out.
    """
    made: dict[str, Tensor] = {}
    if "weights" in names:
        made["weights"] = weights_HRK
    if "weights_mean" in names:
        made["weights_mean"] = weights_HRK.sum(0)
    if "weights_max" in names:
        made["weights_max"] = weights_HRK.amax(0)
    if "received" in names:
        made["received"] = weights_HRK.sum(-2)
    if "entropy" in names:
        ln = weights_HRK.clamp(min=torch.finfo(torch.float32).tiny).log_()
        made["entropy"] = ln.mul_(weights_HRK).sum(-1).neg_().add_(0.0)  # 0, where it is −0
    if any(name in names for name in TOP_K):
        most, places = largest(weights_HRK, min(k, weights_HRK.shape[-1]))
        rest = (weights_HRK.sum(-1) - most.sum(-1)).clamp_(min=0.0)
        found = (places.to(torch.int32), most, rest)
        made |= {name: one for name, one in zip(TOP_K, found, strict=True) if name in names}
    return made


def reduce_weights(weights_HTS: Tensor, names: Collection[str], *, k: int) -> dict[str, Tensor]:
    """Return outputs of `OF_WEIGHTS` of the chosen weights of a sequence, as `derive` does; they are kept."""
    made = reduced(weights_HTS, names, k=k)
    if "weights_mean" in made:
        made["weights_mean"].div_(weights_HTS.shape[0])
    return made


def derive(
    problem: Problem,
    lse_HT: Tensor | None,
    selection: Selection,
    *,
    output_lengths: OutputLengths | None = None,
    ids: Tensor | None = None,
) -> Steps[dict[str, Tensor]]:
    """Return every attention-level output of a selection, shaped as `outputs.shape_of` says, no layer axis.

    `lse_HT`: float32 [H, T] as `contextualize` gives it; None computes it for the rows that are read, which
    is right when z is not wanted. `output_lengths`: of the layer, for `output_norms`; it must be there where
    they are asked for. `ids` [T]: of tokens, which `head_profile` reads. All float32, `top_k_keys` int32.
    Heads and rows come in the order asked, key heads in that of the heads that read them. Rows that may
    attend nothing: weights, entropy and rest 0, logsumexp −inf, keys any.
    """
    asked = set(selection.outputs) & DERIVED
    made: dict[str, Tensor] = {}
    if selection.spans is not None and "weights" in asked:
        made["weights"] = yield from between_spans(
            problem, lse_HT, heads=selection.heads, spans=selection.spans
        )
        asked.remove("weights")
    if "mixed" in asked:
        assert selection.mix is not None
        made["mixed"] = yield from mixture(problem, lse_HT, selection.mix, rows=selection.rows)
        asked.remove("mixed")
    if asked:
        view = view_of(problem, lse_HT, heads=selection.heads, rows=selection.rows)
        made |= _given(view, asked & GIVEN, each=selection.pairs is not None)
        lengths = _lengths(view, asked & NORMS, output_lengths)
        sums = _sums(view, asked & SUMS, selection, ids)
        others = asked - GIVEN - SUMS
        made |= yield from _walk(view, others, lengths, sums, k=min(selection.top_k, problem.k.shape[1]))
    return {name: made[name] for name in selection.outputs if name in made}


def rolled(weights_TS: Tensor, before_TS: Tensor | None) -> Tensor:
    """Multiply one layer's mean weights into the rollout so far: (A + I)/2, rows summing to one.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020, section 3.
    """
    mixed = weights_TS + torch.eye(weights_TS.shape[0], device=weights_TS.device)
    mixed = mixed / mixed.sum(dim=-1, keepdim=True)
    return mixed if before_TS is None else mixed @ before_TS


def _given(view: View, names: Set[str], *, each: bool) -> dict[str, Tensor]:
    """Return q, k, v as they were given: chosen heads and rows of q, and each key head that they read once.

    `each`: one key head for each of the heads.
    """
    made = {}
    if "queries" in names:
        made["queries"] = select(select(view.problem.queries, 0, view.heads), 1, view.rows)
    for name, tensor in (("keys", view.problem.keys), ("values", view.problem.values)):
        if name in names:
            heads = view.key_heads if each else list(dict.fromkeys(view.key_heads))
            made[name] = select(tensor, 0, compact(heads))
    return {name: tensor.float().contiguous() for name, tensor in made.items()}


def _lengths(view: View, names: Set[str], output_lengths: OutputLengths | None) -> dict[str, Tensor]:
    """Return how long values are to each chosen head [H', S], as each of the norms asked for means it."""
    made = {}
    for name in names:
        of = value_lengths if name == "value_norms" else output_lengths
        assert of is not None, f"{name} is asked for where it is not offered"
        made[name] = of(view.problem.values, view.heads, group=view.problem.group)
    return made


def _sums(
    view: View, names: Set[str], selection: Selection, ids: Tensor | None
) -> dict[str, Shares | Profiles]:
    """Return what adds up blocks of weights, by the outputs that come of it."""
    made: dict[str, Shares | Profiles] = {}
    if "share" in names:
        assert selection.share is not None
        made["share"] = Shares(view, selection.share)
    if "head_profile" in names:
        made["head_profile"] = Profiles(view, ids)
    return made


def _walk(
    view: View,
    names: Set[str],
    lengths: Mapping[str, Tensor],
    sums: Mapping[str, Shares | Profiles],
    *,
    k: int,
) -> Steps[dict[str, Tensor]]:
    """Return outputs that are functions of scores or of a row's logsumexp."""
    out = _allocate(view, names - {"lse"}, k=k)
    walk = _Walk(view=view, out=out, reads_lse="lse" in names, lengths=lengths, sums=sums, k=k)
    if sums or names - {"lse"} or (names and not view.known):
        for block in view.blocks():
            yield
            walk.visit(block)
    if "weights_mean" in names:
        walk.out["weights_mean"].div_(len(view.heads))
    if "lse" in names:
        walk.out["lse"] = view.lse.clone()
    return walk.out | {name: one.result() for name, one in sums.items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Walk:
    """Outputs being filled, block by block."""

    view: View
    out: dict[str, Tensor]
    reads_lse: bool
    lengths: Mapping[str, Tensor]  # of values [H', S], by the norms that are made of them
    sums: Mapping[str, Shares | Profiles]
    k: int

    def visit(self, block: Block) -> None:
        """Compute one block and serve every output from it; weights take the place of its scores."""
        view, out = self.view, self.out
        scored = view.scores(block, into=out.get("weights"))
        if self.reads_lse:
            view.note_lse(block, scored)
        if "scores" in out:
            out["scores"][block.heads, block.rows, block.keys] = scored.scores
        if self.sums or not (OF_WEIGHTS | NORMS).isdisjoint(out):
            weights = view.weights(block, scored)
            for one in self.sums.values():
                one.add(block, weights)
            for name, value in reduced(weights, out.keys(), k=self.k).items():
                self._put(name, block, value)
            self._weigh(block, weights)

    def _put(self, name: str, block: Block, value: Tensor) -> None:
        """Put a block of an output where it belongs."""
        axes = {"H": block.heads, "T": block.rows, "S": block.keys, "k": slice(0, value.shape[-1])}
        place = self.out[name][tuple(axes[axis] for axis in OUTPUTS[name].axes)]
        if name in JOINED:
            JOINED[name](place, value)
        elif place.data_ptr() != value.data_ptr():
            place.copy_(value)
        if name == "top_k_keys":
            self._place_keys(block, found=value.shape[-1])

    def _place_keys(self, block: Block, *, found: int) -> None:
        """Write keys by their numbers; where fewer than k are in sight, others make up the number."""
        keys = self.out["top_k_keys"][block.heads, block.rows]
        keys[..., :found] += block.keys.start
        if found < keys.shape[-1]:
            unseen = chain(range(block.keys.start), range(block.keys.stop, self.view.k.shape[1]))
            others = [*islice(unseen, keys.shape[-1] - found)]
            keys[..., found:] = tensor_of(others, keys.device, torch.int32)

    def _weigh(self, block: Block, weights: Tensor) -> None:
        """Put weights times lengths where the norms want them."""
        heads, rows, keys = block.heads, block.rows, block.keys
        for name, lengths in self.lengths.items():
            long = lengths[heads, None, keys]
            place = self.out[name][heads, rows, keys].copy_(weights * long)
            # A weight of 0 takes nothing, whatever the value. A GPU is not waited for to tell of any.
            if place.device.type != "cpu" or not bool(long.isfinite().all()):
                place.masked_fill_(weights == 0, 0.0)


def _allocate(view: View, names: Set[str], *, k: int) -> dict[str, Tensor]:
    """Return the outputs that a walk fills, holding what is true of keys that no row sees."""
    sizes = {"H": len(view.heads), "T": len(view.rows), "S": view.k.shape[1], "k": k}
    out = {}
    for name in names:
        shape = [sizes[axis] for axis in OUTPUTS[name].axes]
        dtype = torch.int32 if OUTPUTS[name].dtype == "int32" else torch.float32
        out[name] = torch.empty(shape, dtype=dtype, device=view.q.device)
        if OUTPUTS[name].axes != "HTS":
            out[name].zero_()
        elif view.problem.visibility.band is not None:  # else every place is written
            out[name].fill_(-math.inf if name == "scores" else 0.0)
    if "top_k_keys" in out:  # a row that sees nothing keeps these
        out["top_k_keys"].copy_(torch.arange(k, device=view.q.device))
    return out


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row [..., S], descending, and their int64 places: both [..., k].

    A long row is cut into chunks of 64. The k largest numbers lie in the k chunks with the largest
    maxima, so only those are sorted: reading maxima is far cheaper than sorting. k is at most S.
    """
    total = scores.shape[-1]
    whole = total // CHUNK
    if total < LONG_ROW or k * CHUNK * 4 > total:
        return _topk(scores, k)
    head, tail = scores[..., : whole * CHUNK], scores[..., whole * CHUNK :]
    chunks = head.reshape(*head.shape[:-1], whole, CHUNK)
    best = chunks.amax(-1).topk(k, dim=-1, sorted=False).indices
    found = chunks.gather(-2, best[..., None].expand(*best.shape, CHUNK)).flatten(-2)
    at = (best[..., None] * CHUNK + torch.arange(CHUNK, device=scores.device)).flatten(-2)
    if tail.shape[-1]:
        found = torch.cat([found, tail], dim=-1)
        rest = torch.arange(whole * CHUNK, total, device=scores.device)
        at = torch.cat([at, rest.expand(*at.shape[:-1], -1)], dim=-1)
    values, places = _topk(found, k)
    return values, at.gather(-1, places)


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, places = scores.topk(k, dim=-1)
    return values, places
