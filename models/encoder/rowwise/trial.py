"""Whether kernels over rows run on a device, and give there what is written: each tried once, at load."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.device.gpu import ends_trial
from models.encoder.rowwise.choice import WIDEST
from models.encoder.rowwise.launch import RowNorm, add_norm, gated, turn

log = logging.getLogger(__name__)

Activation = Callable[[Tensor], Tensor]
Pairs = Sequence[tuple[Tensor, Tensor]]  # what was made, and what is written

ROWS = 5
HEADS, KEY_HEADS = 4, 2
# Of a number of size 1, or of the number itself where it is larger: half a place in halves, and more than it.
TOLERANCES = {torch.float32: 4e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def launched_on(device: torch.device) -> bool:
    """Whether kernels over rows are for a device at all."""
    return device.type == "cuda"


def norms_on(device: torch.device, dtype: torch.dtype, width: int, *, rms: bool) -> bool:
    """Whether `add_norm` is right there for rows of a width."""
    if not launched_on(device) or not 0 < width <= WIDEST:
        return False
    return agrees("add_norm", device, dtype, (width, rms))


def gates_on(device: torch.device, dtype: torch.dtype, activation: str, written: Activation) -> bool:
    """Whether `gated` is right there for an activation, `written` as torch's operators."""
    return launched_on(device) and agrees("gated", device, dtype, (activation, written))


def turns_on(
    device: torch.device, dtype: torch.dtype, width: int, half: int, *, interleaved: bool, norm: str = "none"
) -> bool:
    """Whether `turn` is right there for heads of a width, with norms of q and k: none, layer or rms."""
    return launched_on(device) and agrees("turn", device, dtype, (width, half, interleaved, norm))


@cache
def agrees(name: str, device: torch.device, dtype: torch.dtype, shape: tuple[Any, ...]) -> bool:
    """Whether a kernel, compiled for a shape, agrees on a device with float64 on a processor.

    Raises what the device says when it has no memory, which is tried again the next time, or has failed;
    whatever else a compiler or a driver says is logged, and means no.
    """
    said = f"kernel {name} of {', '.join(map(str, shape))} for {device}, {dtype}"
    try:
        worst = max(_worst(made, written) for made, written in TRIED[name](device, dtype, *shape))
    except Exception as error:  # a compiler may refuse in any way it likes
        if ends_trial(error, device):
            raise
        log.warning("no %s, torch's operators instead: %s", said, str(error)[:200])
        return False
    if not worst <= TOLERANCES[dtype]:
        log.warning("%s is off by %.1e, torch's operators instead", said, worst)
        return False
    return True


def tried_norms(device: torch.device, dtype: torch.dtype, width: int, rms: bool) -> Pairs:  # noqa: FBT001
    """Return a sum and its norm, and a norm of a norm: what blocks do before, between and after."""
    x, z, *parameters = numbers(device, dtype, (ROWS, width), (ROWS, 2 * width), *((width,),) * 3)
    z = z[:, :width]
    weight, other, bias = parameters
    inner, outer = RowNorm(weight, None, 1e-6, rms), RowNorm(other, None if rms else bias, 1e-5, rms)
    wide = x.double().cpu(), z.double().cpu()
    both = wide[0] + wide[1]
    around = wide[0] + as_normalized(wide[1], inner)
    total, normed = add_norm(x, z, outer=outer)
    other_total, other_normed = add_norm(x, z, inner=inner, outer=outer)
    more_total, more_normed = add_norm(x, z, outer=outer, more_D=bias)
    return [
        (total, both),
        (normed, as_normalized(both, outer)),
        (other_total, around),
        (other_normed, as_normalized(around, outer)),
        (add_norm(x, z, outer=outer, reads_sum=False)[1], as_normalized(both, outer)),
        (add_norm(None, z, outer=outer)[1], as_normalized(wide[1], outer)),
        (add_norm(x, z, inner=inner)[0], around),
        (more_total, both + bias.double().cpu()),
        (more_normed, as_normalized(both, outer)),
    ]


def tried_gates(device: torch.device, dtype: torch.dtype, activation: str, written: Activation) -> Pairs:
    """Return both halves of a product, one gating the other, and an activation by itself."""
    (both,) = numbers(device, dtype, (ROWS, 2 * 70))
    gate, up = (3 * both).chunk(2, dim=-1)
    alone = written(gate.double().cpu())
    return [
        (gated(gate, up, activation), alone * up.double().cpu()),
        (gated(gate, None, activation), alone),
    ]


def tried_turns(
    device: torch.device,
    dtype: torch.dtype,
    width: int,
    half: int,
    interleaved: bool,  # noqa: FBT001
    norm: str,
) -> Pairs:
    """Return q and k as a projection leaves them, turned elsewhere and then in place."""
    qkv, *parameters = numbers(device, dtype, (ROWS, (HEADS + 2 * KEY_HEADS) * width), *((width,),) * 4)
    angles = numbers(device, torch.float32, (ROWS, 1, half))[0]
    cosines, sines = angles.cos(), angles.sin()
    q = qkv[:, : HEADS * width].view(ROWS, HEADS, width)
    k = qkv[:, HEADS * width : (HEADS + KEY_HEADS) * width].view(ROWS, KEY_HEADS, width)
    norms = None
    if norm != "none":
        weight, bias, other, more = parameters
        rms = norm == "rms"
        norms = (
            RowNorm(weight, None if rms else bias, 1e-6, rms),
            RowNorm(other, None if rms else more, 1e-5, rms),
        )
    written = []
    for place, one in enumerate((q, k)):
        own = one.double().cpu()
        own = own if norms is None else as_normalized(own, norms[place])
        written.append(as_turned(own, cosines, sines, interleaved=interleaved))
    made = [
        *turn(q, k, cosines, sines, norms, interleaved=interleaved, in_place=False),
        *turn(q, k, cosines, sines, norms, interleaved=interleaved, in_place=True),
    ]
    return list(zip(made, written * 2, strict=True))


TRIED: dict[str, Callable[..., Pairs]] = {"add_norm": tried_norms, "gated": tried_gates, "turn": tried_turns}


def as_normalized(x: Tensor, norm: RowNorm) -> Tensor:
    """Return the norm of float64 rows on a processor, as it is written."""
    if not norm.rms:
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double().cpu()
    return x if norm.bias is None else x + norm.bias.double().cpu()


def as_turned(x_NHD: Tensor, cosines: Tensor, sines: Tensor, *, interleaved: bool) -> Tensor:
    """Return float64 vectors on a processor, their pairs turned by angles [N, 1, half] as complex numbers."""
    half = cosines.shape[-1]
    first, second = slice(0, half), slice(half, 2 * half)
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    turned = torch.complex(x_NHD[..., first], x_NHD[..., second])
    turned = turned * torch.complex(cosines.double().cpu(), sines.double().cpu())
    made = x_NHD.clone()
    made[..., first], made[..., second] = turned.real, turned.imag
    return made


def numbers(device: torch.device, dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return random tensors of shapes, the same each time."""
    chance = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=chance).to(device, dtype) for shape in shapes]


def _worst(made: Tensor, written: Tensor) -> float:
    """Return the largest difference, as a part of numbers larger than 1."""
    return float(((made.double().cpu() - written).abs() / written.abs().clamp(min=1.0)).max())
