"""Attention on queries, keys and values that the caller brings: the same mathematics, no model."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attention.backends import Heads, Rule, plan
from models.attention.problem import prepare
from models.attention.sequence import InputSequence, chosen_part
from models.device.collect import answers
from models.device.steps import Steps
from models.protocol import QKV, Answer, Failure, Item

__all__ = ["attend_qkv"]


def attend_qkv(item: Item, device: torch.device) -> Steps[Answer | Failure]:
    """Return the chosen outputs of one caller's own Q, K, V, computed in float32 on `device`.

    z is [H, T, d_v]; inputs that came without a head axis get outputs without one.
    """
    given = item.input
    assert isinstance(given, QKV)
    one = InputSequence.of(item, device)
    q, k, v = (_on_device(one, device) for one in (given.query, given.key, given.value))
    problem = prepare(q, k, v, spec=given.rule, mask=one.mask)
    heads = Heads(device, q.dtype, len(q), len(k), q.shape[2], v.shape[2])
    (group,) = plan([one], [Rule(given.rule, own=one.own_rule)], heads, 0)
    found = yield from group.attend(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), lambda _: problem
    )
    if "z" in one.selection:
        one.collector.put("z", 0, chosen_part(found.z.transpose(0, 1), one.selection))
    yield from group.collect(0, found, lambda _: problem)
    (answer,) = answers([one.collector])
    return answer


def _on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.tensor(array, dtype=torch.float32, device=device)
