"""Whether kernels in tiles run on a device, and give there what is written: tried once, at load."""

import logging
from dataclasses import replace
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from models.attention.reductions import OF_WEIGHTS, reduced
from models.attention.tiles.launch import Launches
from models.compiled.extents import Extent
from models.compiled.rules import ScoreRule
from models.device.gpu import ends_trial
from models.device.packed import PackedCollector, together
from models.outputs import DtypeName, Selection, Share
from models.shapes import Dims

log = logging.getLogger(__name__)

LENGTHS = (3, 150, 1, 64)
TRIED = (*sorted(OF_WEIGHTS), "share", "lse")
SELECTION = Selection(outputs=TRIED, top_k=4, share=Share(of=((0, 1),), over=((0, 3),)))
REPLIES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@cache
def runs_on(device: torch.device, dtype: torch.dtype, d_k: int, d_v: int) -> bool:
    """Whether kernels for heads of these widths agree on a device with float64 on a processor.

    Raises what the device says when it has no memory, which is tried again the next time, or has failed;
    whatever else a compiler or a driver says is logged, and means no.
    """
    try:
        worst = max(disagreement(device, dtype, d_k, d_v, rule) for rule in (ScoreRule(), ScoreRule(high=0)))
    except Exception as error:  # a compiler may refuse in any way it likes
        if ends_trial(error, device):
            raise
        log.warning("no kernels in tiles for %s, %s, width %d: %s", device, dtype, d_k, str(error)[:200])
        return False
    if not worst <= TOLERANCES[dtype]:
        log.warning("kernels in tiles are off by %.1e for %s, %s, width %d", worst, device, dtype, d_k)
        return False
    return True


def disagreement(device: torch.device, dtype: torch.dtype, d_k: int, d_v: int, rule: ScoreRule) -> float:
    """Return the largest difference from what is written, of z and of what is made beside it.

    Where the answers of a batch are gathered, in the dtype of q. Of numbers larger than 1, to the largest.
    """
    chance = torch.Generator().manual_seed(0)
    heads, key_heads, total = 4, 2, sum(LENGTHS)
    shapes = ((heads, d_k), (key_heads, d_k), (key_heads, d_v))
    q, k, v = (torch.randn(total, *shape, generator=chance).to(device, dtype) for shape in shapes)
    scale = d_k**-0.5
    ends = [sum(LENGTHS[:place]) for place in range(len(LENGTHS) + 1)]
    rows = [slice(first, last) for first, last in pairwise(ends)]
    reply = replace(SELECTION, dtype=REPLIES[dtype])
    each = Dims(T=0, S=0, heads=heads, key_heads=key_heads, d_z=d_v, d_k=d_k, d_v=d_v)
    homes = [PackedCollector(reply, replace(each, T=length, S=length), device) for length in LENGTHS]
    together(homes)
    extents = [
        Extent(one, lse=True, outputs=TRIED[:-1], selection=reply, home=home.home(0))
        for one, home in zip(rows, homes, strict=True)
    ]
    result = Launches(q, k, v, scale, rule).attend(extents)
    worst = 0.0
    for one, home in zip(rows, homes, strict=True):
        own = (x[one].double().cpu() for x in (q, k, v))
        written = as_written(*own, scale=scale, causal=rule.high == 0)
        made = {name: home.gathering.view(home.number, name) for name in TRIED} | {"z": result.z[one]}
        keys = made.pop("top_k_keys").cpu().long()
        of_keys = written["weights"].gather(-1, keys)  # of weights that are alike, either
        worst = max(worst, _apart(of_keys, written["top_k_weights"]))
        worst = max(worst, *(_apart(tensor.double().cpu(), written[name]) for name, tensor in made.items()))
    return worst


def _apart(made: Tensor, written: Tensor) -> float:
    """Return the largest difference, of numbers larger than 1 to the largest; NaN of any is infinite."""
    return float(((made - written).abs().max() / written.abs().max().clamp(min=1.0)).nan_to_num(torch.inf))


def as_written(
    q_THD: Tensor, k_TGD: Tensor, v_TGV: Tensor, *, scale: float, causal: bool
) -> dict[str, Tensor]:
    """Return softmax(scale·QKᵀ)·V of one sequence [T, H, V] and what is made beside it, as it is written."""
    group = q_THD.shape[1] // k_TGD.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k_TGD, v_TGV))
    scores = scale * torch.einsum("thd,shd->hts", q_THD, k)
    if causal:
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = scores.softmax(-1)
    made = reduced(weights, OF_WEIGHTS, k=SELECTION.top_k)
    made["weights_mean"] = made["weights_mean"] / len(weights)
    made["share"] = weights[..., :1].sum(-1) / weights[..., :3].sum(-1)
    return made | {"z": torch.einsum("hts,shd->thd", weights, v), "lse": scores.logsumexp(-1)}
