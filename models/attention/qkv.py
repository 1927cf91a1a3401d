"""Attention on queries, keys and values that the caller brings: the same mathematics, no model."""

from collections.abc import Sequence

import torch

from models.attention.backends import plan
from models.attention.problem import Heads, Rule, prepare
from models.attention.sequence import InputSequence, chosen_part
from models.device.answers import answers, together
from models.device.staging import tensor_of
from models.device.steps import Steps
from models.protocol import QKV, Answers, Item


def attend_qkv(items: Sequence[Item], device: torch.device) -> Steps[Answers]:
    """Return the chosen outputs of callers' own Q, K, V, computed in float32 on `device`.

    z is [H, T, d_v]; inputs that came without a head axis get outputs without one.
    """
    sequences = [InputSequence.of(item, device, place=place) for place, item in enumerate(items)]
    together([sequence.collector for sequence in sequences])
    for item, sequence in zip(items, sequences, strict=True):
        assert isinstance(item.input, QKV)
        yield from _attend(item.input, sequence, device)
    return answers([sequence.collector for sequence in sequences])


def _attend(given: QKV, sequence: InputSequence, device: torch.device) -> Steps[None]:
    arrays = (given.query, given.key, given.value)
    q, k, v = (tensor_of(array, device, torch.float32) for array in arrays)
    problem = prepare(q, k, v, spec=given.rule, mask=sequence.mask, edits=sequence.edits_in(0))
    heads = Heads(device, q.dtype, len(q), len(k), q.shape[2], v.shape[2])
    (group,) = plan([sequence], [Rule(given.rule, own=sequence.own_rule, apart=True)], heads, 0)
    result = yield from group.attend(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), lambda _: problem
    )
    group.edit_heads(result)
    if "z" in sequence.selection:
        sequence.collector.put("z", 0, chosen_part(result.z.transpose(0, 1), sequence.selection))
    yield from group.collect(0, result, lambda _: problem)
