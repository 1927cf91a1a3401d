"""What the verbs of edits mean, on the tensors of one sequence that other people's hooks are given.

Written from the table of verbs alone, with nothing of what carries them out here.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from tests.peers.questions import LENGTH

ORDER = ("add", "block", "pattern", "set", "from", "scale")  # within a layer
OF_SCORES, OF_WEIGHTS, OF_Z = ORDER[:2], ORDER[2:3], ORDER[3:]

Edit = dict[str, Any]


def by_layer(edits: list[Edit], heads: int) -> dict[int, list[tuple[Edit, list[int]]]]:
    """Return what is to be done in each layer, in order, and to which heads."""
    found: dict[int, list[tuple[Edit, list[int]]]] = defaultdict(list)
    for edit in sorted(edits, key=lambda one: ORDER.index(one["edit"])):
        chosen = defaultdict(list)
        for layer, head in edit.get("heads", ()):
            chosen[layer].append(head)
        for layer in edit.get("layers", ()):
            chosen[layer] = list(range(heads))
        for layer, which in chosen.items():
            found[layer].append((edit, which))
    return found


def positions(said: Any) -> Tensor:
    """Return the positions that `queries` or `keys` name."""
    if said is None:
        return torch.arange(LENGTH)
    if isinstance(said, dict):
        inside = {at for start, end in said["outside"] for at in range(start, end)}
        return torch.tensor([at for at in range(LENGTH) if at not in inside])
    return torch.tensor(said) % LENGTH


def edit_scores(edit: Edit, heads: list[int], scores_HTS: Tensor) -> Tensor:
    """Return scores after `add` or `block`."""
    made = scores_HTS.clone()
    queries, keys = positions(edit.get("queries")), positions(edit.get("keys"))
    where = torch.tensor(heads)[:, None, None], queries[:, None], keys
    if edit["edit"] == "add":
        made[where] += edit["value"]
    else:
        made[where] = -torch.inf
    return made


def edit_weights(edit: Edit, heads: list[int], weights_HTS: Tensor) -> Tensor:
    """Return weights after `pattern`."""
    made = weights_HTS.clone()
    rows = positions(edit.get("queries"))
    for head in heads:
        made[head, rows] = pattern(edit["value"], weights_HTS[head])[rows].to(made)
    return made


def pattern(value: Any, weights_TS: Tensor) -> Tensor:
    """Return weights [T, S] that a `pattern` names, or is; `weights_TS` say what may be attended."""
    at = torch.arange(LENGTH)
    if value == "uniform":
        allowed = (weights_TS > 0).to(weights_TS)
        return allowed / allowed.sum(-1, keepdim=True)
    if isinstance(value, str):
        keys = {"self": at, "previous": (at - 1).clamp(min=0), "first": at * 0}[value]
        return torch.nn.functional.one_hot(keys, LENGTH)
    return torch.tensor(value)


def edit_z(edit: Edit, heads: list[int], z_THV: Tensor, donor_THV: Tensor) -> Tensor:
    """Return z of heads after `set`, `from` or `scale`; `donor_THV` is what `from` takes from."""
    made = z_THV.clone()
    where = positions(edit.get("queries"))[:, None], torch.tensor(heads)
    match edit["edit"]:
        case "set":
            made[where] = torch.tensor(edit["value"]).transpose(0, 1)
        case "from":
            made[where] = donor_THV[where]
        case "scale":
            made[where] *= edit["value"]
    return made
