"""The ONNX `Attention` operator's own test cases, and its calling conventions unpacked.

onnx 1.23.2 ships no data files: the cases are built by its own generators. `Call` turns one case (a batch
axis, packed heads, caches inside or outside the operator) into plain sequences of q, k, v, mask and rule. The
`_expanded` twins of the cases describe the same data as a graph of other operators: no attention calls.
"""

import functools
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from models.mechanism import AttentionSpec


@functools.cache
def cases():
    """Every case that is one `Attention` node, by name."""
    with warnings.catch_warnings():  # generators of other operators overflow on purpose while imported
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases("Attention")
    return {case.name: case for case in found if case.model.graph.node[0].op_type == "Attention"}


@dataclass(frozen=True)
class Sequence:
    """One sequence of a case: q [H, T, D], k [G, S, D], v [G, S, V], a mask or None, and the rule."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None
    spec: AttentionSpec


class Call:
    """One node of a case: its attributes, its inputs and its expected outputs by name."""

    def __init__(self, case):
        (node,) = case.model.graph.node
        (data,) = case.data_sets
        self.attributes = {a.name: a.f if a.type == 1 else a.i for a in node.attribute}
        self.inputs = dict(zip(filter(None, node.input), map(tensor, data[0]), strict=True))
        self.expected = dict(zip(filter(None, node.output), map(tensor, data[1]), strict=True))
        self.packed = self.inputs["Q"].dim() == 3
        self.past = "past_key" in self.inputs

    def present(self):
        """The keys and values [B, G, S, …] that are attended: the cache, then what is new."""
        found = []
        for name in ("key", "value"):
            new = split_heads(self.inputs[name[0].upper()], self.attributes.get("kv_num_heads"))
            found.append(torch.cat([self.inputs[f"past_{name}"], new], dim=2) if self.past else new)
        return found

    def sequences(self):
        """The sequences of the batch, each alone."""
        q = split_heads(self.inputs["Q"], self.attributes.get("q_num_heads"))
        k, v = self.present()
        return [self._sequence(q[b], k[b], v[b], b) for b in range(q.shape[0])]

    def joined(self, parts):
        """z of every sequence [H, T, V] as the operator returns Y."""
        z = torch.stack(parts)
        return z.transpose(1, 2).flatten(2) if self.packed else z

    def spec(self, offset=0):
        at = self.attributes
        left, right = at.get("left_window_size", -1), at.get("right_window_size", -1)
        return AttentionSpec(
            scale=at.get("scale"),
            causal=bool(at.get("is_causal", 0)),
            causal_offset=offset,
            left_window=None if left < 0 else left,
            right_window=None if right < 0 else right,
            softcap=at.get("softcap") or None,
        )

    def _sequence(self, q, k, v, b):
        keys, offset = k.shape[1], 0
        if self.past:
            offset = self.inputs["past_key"].shape[2]
        if "nonpad_kv_seqlen" in self.inputs:  # a cache kept outside: only its first rows are real
            keys = int(self.inputs["nonpad_kv_seqlen"][b])
            offset = keys - q.shape[1]
        return Sequence(q, k[:, :keys], v[:, :keys], self._mask(b, keys), self.spec(offset))

    def _mask(self, b, keys):
        """This sequence's mask, [S] to [H, T, S]; what is shorter than the keys blocks the rest."""
        mask = self.inputs.get("attn_mask")
        if mask is None:
            return None
        if mask.dim() == 4:
            mask = mask[b if mask.shape[0] > 1 else 0]
        missing = (*mask.shape[:-1], max(0, keys - mask.shape[-1]))
        blocked = torch.zeros(missing, dtype=mask.dtype)
        if mask.dtype != torch.bool:
            blocked.fill_(-torch.inf)
        return torch.cat([mask, blocked], dim=-1)[..., :keys]


def tensor(array):
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def split_heads(x, heads):
    """[B, T, H·D] → [B, H, T, D]; four axes pass through."""
    return x if x.dim() == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2)
