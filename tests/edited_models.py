"""Edits as they are written, inside transformers' own models: an attention function of a few plain lines."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from models.edit import Edit
from models.outputs import Spans

NAME = "edited_by_hand"
_now: dict[str, Any] = {}


def _rows(spans: Spans | None, total: int) -> list[int]:
    return list(range(total)) if spans is None else [at for start, stop in spans for at in range(start, stop)]


def edit_scores(edits: Sequence[Edit], layer: int, scores_HTS: Tensor) -> None:
    """Add and block, number by number."""
    _, queries, keys = scores_HTS.shape
    for edit in edits:
        for _, head in (at for at in edit.at if at[0] == layer and edit.verb in ("add", "block")):
            for row in _rows(edit.queries, queries):
                for key in _rows(edit.keys, keys):
                    scores_HTS[head, row, key] += -math.inf if edit.verb == "block" else edit.value


def edit_weights(edits: Sequence[Edit], layer: int, weights_HTS: Tensor, seen_HTS: Tensor) -> None:
    """Put patterns, row by row; `seen`: what may be attended, after `block`."""
    _, queries, keys = weights_HTS.shape
    for edit in (one for one in edits if one.verb == "pattern"):
        for place, (of, head) in enumerate(edit.at):
            for number, row in enumerate(_rows(edit.queries, queries) if of == layer else ()):
                made = torch.zeros(keys)
                if isinstance(edit.value, str) and edit.value == "uniform":
                    made[seen_HTS[head, row]] = 1 / max(1, int(seen_HTS[head, row].sum()))
                elif isinstance(edit.value, str):
                    made[{"previous": max(row - 1, 0), "self": row, "first": 0}[edit.value]] = 1
                else:
                    value = np.asarray(edit.value)
                    made = torch.tensor((value[place] if value.ndim == 3 else value)[number])
                weights_HTS[head, row] = made


def edit_heads(edits: Sequence[Edit], layer: int, z_HTV: Tensor, others: Sequence[Tensor]) -> None:
    """Set z, take it from another sequence's, scale it."""
    for verb in ("set", "from", "scale"):
        for edit in (one for one in edits if one.verb == verb):
            rows = _rows(edit.queries, z_HTV.shape[1])
            for place, head in ((place, head) for place, (of, head) in enumerate(edit.at) if of == layer):
                if verb == "set":
                    z_HTV[head, rows] = torch.tensor(np.asarray(edit.value)[place])
                elif verb == "from":
                    assert edit.source is not None
                    z_HTV[head, rows] = others[edit.source][layer][head, rows]
                else:
                    z_HTV[head, rows] *= edit.value


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **more: Any
) -> tuple[Tensor, Tensor]:
    layer, edits = (
        module.layer_idx if getattr(module, "layer_idx", None) is not None else _now["calls"],
        _now["edits"],
    )
    _now["calls"] += 1
    group = query.shape[1] // key.shape[1]
    (q,), (k,), (v,) = query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = q @ k.mT * scaling
    cap = more.get("softcap")
    scores = scores if cap is None else torch.tanh(scores / cap) * cap
    seen = torch.ones_like(scores, dtype=torch.bool)
    if attention_mask is not None:
        seen = (attention_mask[0] > torch.finfo(q.dtype).min / 2).expand_as(scores)
        scores = scores + attention_mask[0].where(seen, 0)
    scores = scores.masked_fill(~seen, -math.inf)
    if more.get("position_bias") is not None:
        scores = scores + more["position_bias"][0]
    edit_scores(edits, layer, scores)
    weights = scores.softmax(-1).nan_to_num(0.0)
    edit_weights(edits, layer, weights, scores > -math.inf)
    z = weights @ v
    edit_heads(edits, layer, z, _now["others"])
    _now["made"].append({"scores": scores, "weights": weights, "z_heads": z})
    return z.transpose(0, 1)[None], weights[None]


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, eager_mask)


def run_edited(
    model: Any, ids: np.ndarray, edits: Sequence[Edit] = (), others: Sequence[Sequence[Tensor]] = ()
) -> dict[str, np.ndarray]:
    """Return scores, weights and z of heads [L, H, …] and hidden [L, T, D] of one sequence, with its edits.

    `others`: z of heads of every layer, [H, T, d_v], of the sequences that `from` counts.
    """
    model.set_attn_implementation(NAME)
    _now.update(edits=edits, others=others, made=[], calls=0)
    with torch.inference_mode():
        out = model(input_ids=torch.tensor(ids)[None], output_hidden_states=True, use_cache=False)
    made = _now["made"]
    hidden = torch.cat([*out.hidden_states[1:-1], out.last_hidden_state])
    found = {name: torch.stack([one[name] for one in made]).numpy() for name in made[0]}
    return found | {"hidden": hidden.numpy()}
