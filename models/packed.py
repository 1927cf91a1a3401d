"""Self-attention of many sequences that stand one after another in packed rows: the common case.

With no more between two sequences than it takes to say where the next begins; what `attention` checks for
one is checked here once for all. Short sequences are computed plainly: a product, a softmax and a product
take no longer there than the fused kernel, and the weights are then there to be had; by compiled code where
there is such (`native`). Long ones take the fused kernel. Which it is depends on the length alone, never on
what is asked for: z is the same, bit for bit.
Whatever is not plain (a mask, a window, a bias, softcap, rows that come out wrong) is left to `attention`.
A GPU has kernels that take all the sequences at once (`varlen`).
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from models.fused import CALL_PAIRS
from models.kernels import fused, tells_lse
from models.masks import Band, band_of
from models.native import native
from models.parts import Part, Seen
from models.scripted import scripted
from models.spec import AttentionSpec
from models.varlen import Batch, ragged_kernel

__all__ = ["CAUSAL", "SHORT", "ahead", "all_plainly", "contextualize_packed", "is_plain", "short_tokens"]

CAUSAL = Band(high=0)
SHORT = 128  # tokens; measured: up to here the fused kernel gains nothing on torch's operators
SHORT_NATIVE = 512  # nor on compiled code


def is_plain(spec: AttentionSpec) -> bool:
    """Whether weights are softmax(scale·QKᵀ), masked or not, and nothing else."""
    return spec.similarity == "dot" and spec.softcap is None and not spec.add_self


def short_tokens() -> int:
    """Return up to which length a sequence's weights are made on the way to z, in float32 on a processor."""
    return SHORT if native() is None else SHORT_NATIVE


def contextualize_packed(
    q_NHD: Tensor, k_NGD: Tensor, v_NGV: Tensor, spec: AttentionSpec, parts: Sequence[Part]
) -> tuple[Tensor, list[Seen]] | None:
    """Return z [N', H, d_v] of the parts' rows, one after another, and what was seen of each, all sound.

    None where any of them needs the general path.
    """
    heads, group = q_NHD.shape[1], q_NHD.shape[1] // k_NGD.shape[1]
    if not is_plain(spec) or q_NHD.shape[2] != v_NGV.shape[2]:
        return None
    bands = [band_of(spec, queries=part.length, keys=part.length) for part in parts]
    if not {*bands} <= {None, CAUSAL}:
        return None
    if q_NHD.device.type != "cpu":
        return _at_once(q_NHD, k_NGD, v_NGV, spec, parts, causal=CAUSAL in bands)
    longest = max(part.length for part in parts)
    if heads * longest**2 > CALL_PAIRS or not tells_lse(q_NHD.device):
        return None
    # [G, H/G, N, D]: heads that share their keys stand together.
    q = q_NHD.view(q_NHD.shape[0], -1, group, q_NHD.shape[2]).permute(1, 2, 0, 3)
    k, v = k_NGD.transpose(0, 1), v_NGV.transpose(0, 1)
    scale, causal = spec.scale_for(q.shape[3]), CAUSAL in bands
    short = [q.dtype == torch.float32 and part.length <= short_tokens() for part in parts]
    plain = [part for part, is_short in zip(parts, short, strict=True) if is_short]
    made: Iterator[tuple[Tensor, Seen]]
    ours = native()
    if ours is not None and plain:
        attended = ours.attend(q_NHD, k_NGD, v_NGV, plain, scale=scale, causal=causal)
        rows = torch.split(attended.z, [part.length for part in plain])
        made = iter(zip(rows, attended.seen, strict=True))
    else:
        made = _plainly(q, k, v, plain, scale=scale, causal=causal)
    found: list[Tensor] = []
    seen: list[Seen] = []
    for part, band, is_short in zip(parts, bands, short, strict=True):
        if is_short:
            z, what = next(made)
        else:
            own = q[:, :, part.rows], k[:, part.rows], v[:, part.rows]
            z, what = _fused(*own, scale=scale, causal=band is not None)
        found.append(z)
        seen.append(what)
    z_NHV = found[0] if len(found) == 1 else torch.cat(found)
    # A sum that overflows though no number did costs only time.
    return (z_NHV, seen) if math.isfinite(z_NHV.sum(dtype=torch.float32).item()) else None


def _plainly(
    q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], *, scale: float, causal: bool
) -> Iterator[tuple[Tensor, Seen]]:
    """softmax(scale·QKᵀ)·V of each part's rows of q [G, n, N, D], k [G, N, D], v [G, N, V]; z [T, H, V]."""
    if not parts:
        return
    starts, lengths = [part.rows.start for part in parts], [part.length for part in parts]
    wanted = [part.lse for part in parts], [part.weights for part in parts]
    z, lse, weights = _as_one(q, k, v, starts, lengths, *wanted, scale, causal, ahead())
    for index, part in enumerate(parts):
        yield z[index], Seen(lse[index] if part.lse else None, weights[index] if part.weights else None)


def all_plainly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: list[int],
    lengths: list[int],
    want_lse: list[bool],
    want_weights: list[bool],
    scale: float,
    causal: bool,  # noqa: FBT001 - TorchScript takes no keywords
    hidden: Tensor,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return z, logsumexp and weights of each part, as `_plainly` has it; anything where it is not wanted."""
    groups, n = q.size(0), q.size(1)
    nothing = q.new_empty([1])
    unread = nothing.expand(groups, 1, 1)  # beta 0: only alpha is wanted
    found_z: list[Tensor] = []
    found_lse: list[Tensor] = []
    found_weights: list[Tensor] = []
    for at in range(len(starts)):
        start, length = starts[at], lengths[at]
        rows = q[:, :, start : start + length].reshape(groups, n * length, -1)
        scores = torch.baddbmm(unread, rows, k[:, start : start + length].mT, beta=0, alpha=scale)
        if causal:
            scores.view(groups, n, length, length).masked_fill_(hidden[:length, :length], -math.inf)
        lse = scores.logsumexp(-1).view(groups * n, length) if want_lse[at] else nothing
        weights = torch.softmax(scores, dim=-1, out=scores)
        z = torch.bmm(weights, v[:, start : start + length]).view(groups, n, length, -1)
        found_z.append(z.permute(2, 0, 1, 3).flatten(1, 2))
        found_lse.append(lse)
        found_weights.append(weights.view(groups * n, length, length) if want_weights[at] else nothing)
    return found_z, found_lse, found_weights


_as_one = scripted(all_plainly)


def _at_once(
    q_NHD: Tensor, k_NGD: Tensor, v_NGV: Tensor, spec: AttentionSpec, parts: Sequence[Part], *, causal: bool
) -> tuple[Tensor, list[Seen]] | None:
    """Compute all parts by one kernel of a GPU, None without one; nothing is waited for.

    So nobody has looked at z: whoever keeps numbers of it looks at those. What is not finite in one part does
    not reach another.
    """
    group, width = q_NHD.shape[1] // k_NGD.shape[1], q_NHD.shape[2]
    kernel = ragged_kernel(q_NHD.device, q_NHD.dtype, width, group)
    if kernel is None:
        return None
    if sum(part.length for part in parts) < q_NHD.shape[0]:
        q_NHD, k_NGD, v_NGV = (torch.cat([x[part.rows] for part in parts]) for x in (q_NHD, k_NGD, v_NGV))
    batch = Batch.of([part.length for part in parts], q_NHD.device)
    made = kernel(q_NHD, k_NGD, v_NGV, batch, scale=spec.scale_for(width), causal=causal)
    return made.z, [Seen(lse) for lse in made.lse]


def _fused(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> tuple[Tensor, Seen]:
    groups, n, length, _ = q.shape
    if n == 1:
        z, lse = fused(q.transpose(0, 1), k[None], v[None], scale=scale, causal=causal)
        z = z.transpose(0, 1)
    else:
        k, v = (x[:, None].expand(-1, n, -1, -1) for x in (k, v))
        z, lse = fused(q, k, v, scale=scale, causal=causal)
    assert lse is not None
    # 0: an empty row, or one whose scores are all NaN or −inf; `models/fused.py` has the why of both.
    if not bool(lse.all()):
        z = z.new_full((), math.nan).expand_as(z)
    return z.permute(2, 0, 1, 3).flatten(1, 2), Seen(lse.reshape(groups * n, length))


@cache
def ahead() -> Tensor:
    """Return bool [128, 128], true where a key is ahead of its query."""
    return torch.ones(SHORT, SHORT, dtype=torch.bool).triu(1)
