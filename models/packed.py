"""Self-attention of many sequences that stand one after another in packed rows: the common case.

The same kernel on the same numbers as `attention.contextualize`, so the same bits, with no more between two
calls than it takes to say where the next sequence begins; what is checked there for one sequence is checked
here once for all. Whatever is not plain (a mask, a window, a bias, softcap, long sequences, rows that the
kernel gets wrong) is left to the general path.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.fused import CALL_PAIRS
from models.kernels import fused, tells_lse
from models.masks import Band, band_of
from models.spec import AttentionSpec

__all__ = ["contextualize_packed"]

CAUSAL = Band(high=0)


def contextualize_packed(
    q_NHD: Tensor, k_NGD: Tensor, v_NGV: Tensor, spec: AttentionSpec, sequences: Sequence[slice]
) -> tuple[Tensor, list[Tensor]] | None:
    """Return z [N', H, d_v] of the rows of some sequences, and the logsumexp [H, T] of each.

    None where any of them needs the general path.
    """
    heads, group = q_NHD.shape[1], q_NHD.shape[1] // k_NGD.shape[1]
    plain = spec.similarity == "dot" and spec.softcap is None and not spec.add_self
    if not (plain and tells_lse(q_NHD.device) and q_NHD.shape[2] == v_NGV.shape[2]):
        return None
    bands = [band_of(spec, queries=rows.stop - rows.start, keys=rows.stop - rows.start) for rows in sequences]
    longest = max(rows.stop - rows.start for rows in sequences)
    if heads * longest**2 > CALL_PAIRS or not {*bands} <= {None, CAUSAL}:
        return None
    # As one problem of the kernel: [1, H, N, D], or [G, H/G, N, D] where heads share their keys.
    q = q_NHD.view(q_NHD.shape[0], -1, group, q_NHD.shape[2]).permute(1, 2, 0, 3)
    k, v = (x.permute(1, 0, 2)[:, None].expand(-1, group, -1, -1) for x in (k_NGD, v_NGV))
    if group == 1:
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    scale = spec.scale_for(q.shape[3])
    parts, logsumexps = [], []
    for rows, band in zip(sequences, bands, strict=True):
        z, lse = fused(q[:, :, rows], k[:, :, rows], v[:, :, rows], scale=scale, causal=band is not None)
        assert lse is not None
        parts.append(z)
        logsumexps.append(lse)
    # 0: an empty row, or one whose scores are all NaN or −inf; `models/fused.py` has the why of both.
    if not bool(torch.cat([lse.reshape(-1) for lse in logsumexps]).all()):
        return None
    z = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    if any(band is not None for band in bands) and not bool(z.sum(dtype=torch.float32).isfinite()):
        return None
    z_NHV = z.permute(2, 0, 1, 3).flatten(1, 2)
    return z_NHV, [lse.reshape(heads, -1) for lse in logsumexps]
