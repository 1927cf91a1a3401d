"""Attention under every kind of rule, small: what backends are held against each other by."""

import torch

from models.attention.problem import Problem, prepare
from models.mechanism import AttentionSpec

RULES: dict[str, dict[str, object]] = {
    "open": {},
    "causal": {"causal": True},
    "window": {"left_window": 2, "right_window": 1},
    "not itself": {"exclude_self": True},
}


def problems(tokens: int = 7) -> list[Problem]:
    """One problem a rule, then with masks and biases; grouped heads, numbers from a fixed seed."""
    chance = torch.Generator().manual_seed(11)

    def made(**more: object) -> Problem:
        q, k, v = (torch.randn(heads, tokens, 8, generator=chance) for heads in (4, 2, 2))
        spec = more.pop("spec", AttentionSpec())
        return prepare(q, k, v, spec=spec, **more)  # type: ignore[arg-type]

    keys = torch.arange(tokens) % 3 > 0
    empty_row = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    empty_row[3] = False
    return [
        *(made(spec=AttentionSpec(**rule)) for rule in RULES.values()),  # type: ignore[arg-type]
        made(mask=keys),
        made(mask=empty_row),
        made(mask=torch.randn(4, tokens, tokens, generator=chance)),
        made(spec=AttentionSpec(causal=True), mask=keys),
        made(mask=torch.zeros(tokens, dtype=torch.bool)),
    ]
