"""Attention on queries, keys and values that the caller brings: the same mathematics, no model."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attention import contextualize, prepare
from models.collect import Collector, answers, chosen_part
from models.protocol import QKV, Answer, Failure, Item
from models.reductions import derive
from models.scores import Pause, go_on

__all__ = ["attend_direct"]


def attend_direct(item: Item, device: torch.device, *, pause: Pause = go_on) -> Answer | Failure:
    """Return the chosen outputs of one caller's own Q, K, V, computed in float32 on `device`.

    z is [H, T, d_v]; inputs that came without a head axis get outputs without one.
    """
    given = item.input
    assert isinstance(given, QKV)
    chosen = item.selection
    mask = None
    if given.mask is not None:
        mask = torch.tensor(given.mask if given.mask.dtype == np.bool_ else given.mask.astype(np.float32))
        mask = mask.to(device)
    problem = prepare(
        _on_device(given.query, device),
        _on_device(given.key, device),
        _on_device(given.value, device),
        spec=given.rule,
        mask=mask,
        pause=pause,
    )
    collector = Collector(chosen, item.dims)
    derived = tuple(name for name in chosen.outputs if name != "z")
    z_HTV, lse_HT = contextualize(problem, want_lse=bool(derived))
    if "z" in chosen:
        part = chosen_part(z_HTV, chosen)
        collector.put("z", 0, part if given.head_axis else part[0])
    if derived:
        collector.check_rows(lse_HT)
        for name, tensor in derive(problem, lse_HT, replace(chosen, outputs=derived)).items():
            collector.put(name, 0, tensor if given.head_axis else _without_head(name, tensor))
    (answer,) = answers([collector])
    return answer


def _without_head(name: str, tensor: Tensor) -> Tensor:
    return tensor if name in ("weights_mean", "weights_max") else tensor[0]


def _on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=device)
