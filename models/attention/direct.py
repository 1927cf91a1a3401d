"""Attention on queries, keys and values that the caller brings: the same mathematics, no model."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attention.backends import Heads, Rule, plan
from models.attention.problem import Pause, go_on, prepare
from models.attention.sequence import InputSequence, chosen_part
from models.device.collect import Collector, answers
from models.protocol import QKV, Answer, Failure, Item

__all__ = ["attend_direct"]


def attend_direct(item: Item, device: torch.device, *, pause: Pause = go_on) -> Answer | Failure:
    """Return the chosen outputs of one caller's own Q, K, V, computed in float32 on `device`.

    z is [H, T, d_v]; inputs that came without a head axis get outputs without one.
    """
    given = item.input
    assert isinstance(given, QKV)
    mask = None
    if given.mask is not None:
        mask = torch.tensor(given.mask if given.mask.dtype == np.bool_ else given.mask.astype(np.float32))
        mask = mask.to(device)
    q, k, v = (_on_device(one, device) for one in (given.query, given.key, given.value))
    problem = prepare(q, k, v, spec=given.rule, mask=mask, pause=pause)
    one = InputSequence(
        selection=item.selection,
        collector=Collector(item.selection, item.dims),
        queries=given.queries,
        keys=given.keys,
        mask=mask,
        crosses=given.queries != given.keys,
    )
    heads = Heads(device, q.dtype, len(q), len(k), q.shape[2], v.shape[2])
    (group,) = plan([one], [Rule(given.rule, own=one.own_rule)], heads, 0)
    found = group.attend(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), lambda _: problem)
    if "z" in one.selection:
        one.collector.put("z", 0, chosen_part(found.z.transpose(0, 1), one.selection))
    one.collect(0, lambda: problem, lse=found.lse[0], weights=found.weights[0])
    (answer,) = answers([one.collector])
    return answer


def _on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=device)
