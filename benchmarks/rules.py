"""Attention under every rule against torch's, on one thread: the caller's own q, k and v, twelve heads.

    python -m benchmarks.rules [--quick]

Heed is called as `POST /v1/attention` calls it. The other is the faster of torch's fused kernel, with a mask
where the rule needs one and where it can say the rule at all, and of plain operators. Ratios of the best of
several runs, taken in turns in one process; answers are compared first.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.long import layer
from benchmarks.report import save
from benchmarks.turns import turns
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.protocol import QKV, Answer, Item
from models.runtime import TorchRuntime

HEADS = 12
TOLERANCE = 1e-4
LENGTHS = (68, 256, 1024)


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to attend. `keys`: of T queries; `mask`: "" or the rank of one; `fused`: SDPA can say it."""

    name: str
    spec: AttentionSpec = field(default_factory=AttentionSpec)
    keys: Callable[[int], int] = lambda tokens: tokens
    d_k: int = 64
    d_v: int = 64
    key_heads: int = HEADS
    mask: str = ""
    fused: bool = True


RULES = (
    Rule("all keys"),
    Rule("causal", AttentionSpec(causal=True)),
    Rule("causal, keys before", AttentionSpec(causal=True, causal_offset=192), keys=lambda T: T + 192),
    Rule("window of 64 to the left", AttentionSpec(causal=True, left_window=64)),
    Rule("window of 32 both ways", AttentionSpec(left_window=32, right_window=32)),
    Rule("softcap", AttentionSpec(softcap=30.0), fused=False),
    Rule(
        "softcap, window, grouped",
        AttentionSpec(softcap=30.0, causal=True, left_window=64),
        key_heads=4,
        fused=False,
    ),
    Rule("keys hidden, [S]", mask="keys"),
    Rule("pairs hidden, [T, S]", mask="pairs"),
    Rule("added, [H, T, S]", mask="added"),
    Rule("cosine", AttentionSpec(similarity="cosine"), fused=False),
    Rule("without itself", AttentionSpec(exclude_self=True)),
    Rule("itself added", AttentionSpec(add_self=True), fused=False),
    Rule("grouped, four on one", key_heads=3),
    Rule("d_v of 128", d_v=128),
    Rule("d_k of 20", d_k=20, d_v=20),
    Rule("other keys, 77 of them", keys=lambda _: 77),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A rule at a length: tensors [H, T, D], and its masks as torch's kernel takes them."""

    rule: Rule
    q: Tensor
    k: Tensor
    v: Tensor
    given: Tensor | None
    mask: Tensor | None

    @classmethod
    def of(cls, rule: Rule, tokens: int) -> "Case":
        """Make random ones."""
        torch.manual_seed(0)
        keys = rule.keys(tokens)
        q = torch.randn(HEADS, tokens, rule.d_k)
        k, v = torch.randn(rule.key_heads, keys, rule.d_k), torch.randn(rule.key_heads, keys, rule.d_v)
        given = {
            "": None,
            "keys": torch.arange(keys) < keys - keys // 8,
            "pairs": torch.rand(tokens, keys) < 0.8,
            "added": torch.randn(HEADS, tokens, keys),
        }[rule.mask]
        return cls(rule, q, k, v, given, _whole_mask(rule.spec, tokens, keys, given))

    def plain(self) -> Tensor:
        """Return z by operators, every score in memory."""
        spec, group = self.rule.spec, HEADS // self.rule.key_heads
        q, k, v = self.q, self.k, self.v
        if spec.similarity == "cosine":
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        if group > 1:
            k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        scores = q @ k.mT * spec.scale_for(self.rule.d_k)
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        if self.mask is not None:
            added = self.mask.dtype != torch.bool
            scores = scores + self.mask if added else scores.masked_fill(~self.mask, -torch.inf)
        z = torch.softmax(scores, dim=-1) @ v
        return z + v if spec.add_self else z

    def fused(self) -> Tensor:
        """Return z by torch's kernel."""
        causal = self.rule.spec == AttentionSpec(causal=True)
        return F.scaled_dot_product_attention(
            self.q[None],
            self.k[None],
            self.v[None],
            attn_mask=None if causal else self.mask,
            is_causal=causal,
            enable_gqa=self.rule.key_heads < HEADS,
        )[0]

    def item(self) -> Item:
        """Return it as the server asks for it."""
        mask = None if self.given is None else self.given.numpy()
        q, k, v = (one.numpy() for one in (self.q, self.k, self.v))
        given = QKV(query=q, key=k, value=v, mask=mask, rule=self.rule.spec)
        return Item(card=None, input=given, selection=Selection(outputs=("z_heads",)))


def _whole_mask(spec: AttentionSpec, tokens: int, keys: int, given: Tensor | None) -> Tensor | None:
    """Return what a rule hides or adds as one mask, None where it is nothing."""
    away = torch.arange(keys) - torch.arange(tokens)[:, None] - spec.causal_offset
    sees = torch.ones(tokens, keys, dtype=torch.bool)
    if spec.causal:
        sees &= away <= 0
    if spec.left_window is not None:
        sees &= away >= -spec.left_window
    if spec.right_window is not None:
        sees &= away <= spec.right_window
    if spec.exclude_self:
        sees &= away != 0
    if given is not None:
        return given if given.dtype != torch.bool else (sees & given)
    return None if bool(sees.all()) else sees


def ways_of(runtime: TorchRuntime, case: Case) -> dict[str, Callable[[], object]]:
    """Return each way to compute a case, once all agree."""
    item = case.item()

    def heed() -> Tensor:
        (answer,) = runtime.run([item]).answers
        assert isinstance(answer, Answer), answer
        return torch.from_numpy(answer.tensors["z_heads"])

    ways: dict[str, Callable[[], Tensor]] = {"heed": heed, "plain": case.plain}
    if case.rule.fused:
        ways["fused"] = case.fused
    expected = case.plain()
    for name, way in ways.items():
        away = float((way() - expected).abs().max())
        if away > TOLERANCE:
            raise SystemExit(f"{case.rule.name} of {case.q.shape[1]} tokens: {name} is off by {away:.1e}")
    return dict(ways)


def measure(runtime: TorchRuntime, rule: Rule, tokens: int, rounds: int) -> dict[str, object]:
    """Return milliseconds of each way, and the best other's over ours."""
    ways = ways_of(runtime, Case.of(rule, tokens))
    torch.set_num_threads(1)
    least = turns(ways, rounds)
    other = min(seconds for name, seconds in least.items() if name != "heed")
    milliseconds = {name: seconds * 1e3 for name, seconds in least.items()}
    return {"rule": rule.name, "tokens": tokens, **milliseconds, "ratio": other / least["heed"]}


def main() -> int:
    """Measure every rule at every length, print the table, keep the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one length, few rounds")
    chosen = parser.parse_args()
    runtime, rows = layer(), []
    print(f"{'ms, one thread':28} {'tokens':>6} {'heed':>9} {'fused':>9} {'plain':>9}   best other / heed")
    with torch.inference_mode():
        for rule in RULES:
            for tokens in LENGTHS[1:2] if chosen.quick else LENGTHS:
                row = measure(runtime, rule, tokens, 3 if chosen.quick else 7)
                rows.append(row)
                times = " ".join(
                    f"{row[one]:9.3f}" if one in row else f"{'-':>9}" for one in ("heed", "fused", "plain")
                )
                print(f"{rule.name:28} {tokens:6} {times}   {row['ratio']:.2f}", flush=True)
    save("rules", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
