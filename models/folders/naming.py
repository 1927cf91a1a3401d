"""From the names that tensors have in a file to the canonical ones of `models/folders/parameters.py`.

A naming is data: rules, with the few transformations that files need (a transpose, a fused matrix split),
prefixes to drop, and tensors that serving does not read. HEED is that of a Heed folder; those of the
Hugging Face families stand in `models/folders/huggingface/names.py`.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Split = Literal["rows", "per_head"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern of names and what it becomes: `{n}` is the layer, `*` weight or bias, `{name}` anything.

    Several targets: the tensor is split along its output axis, in `rows` blocks one after another, or
    `per_head`, where each head's query, key and value rows stand together (GPT-NeoX).
    """

    source: str
    targets: tuple[str, ...]
    transpose: bool = False  # Conv1D of GPT-2 keeps [in, out]
    split: Split = "rows"


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The rules of one family, tried in order; `ignored` are patterns of what serving does not read.

    The first of `prefixes` that a name starts with is dropped: models with a head wrap the bare one. `head`:
    rules for what words are predicted by, which is read where it is asked for.
    """

    rules: tuple[Rule, ...]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    head: tuple[Rule, ...] = ()

    def find(self, name: str) -> tuple[Rule, tuple[str, ...]] | None:
        """Return the rule for a tensor's name and the canonical names it becomes; None: unexpected."""
        bare = self._bare(name)
        for pattern, rule in self._patterns:
            if match := pattern.fullmatch(bare):
                return rule, tuple(_fill(target, match) for target in rule.targets)
        return None

    def of_head(self, name: str) -> str | None:
        """Return the canonical name of a tensor that words are predicted by; None: it is none."""
        bare = self._bare(name)
        for rule in self.head:
            if match := _compile(rule.source).fullmatch(bare):
                return _fill(rule.targets[0], match)
        return None

    def ignores(self, name: str) -> bool:
        """Whether a tensor may stand in the file and is not read."""
        return any(pattern.fullmatch(self._bare(name)) for pattern in self._ignored)

    def _bare(self, name: str) -> str:
        for prefix in self.prefixes:
            if name.startswith(prefix):
                return name[len(prefix) :]
        return name

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], Rule]]:
        return [(_compile(rule.source), rule) for rule in self.rules]

    @cached_property
    def _ignored(self) -> list[re.Pattern[str]]:
        return [re.compile(pattern) for pattern in self.ignored]


def _compile(source: str) -> re.Pattern[str]:
    escaped = (
        re.escape(source).replace(r"\{n\}", "(?P<n>0|[1-9][0-9]{0,5})").replace(r"\{name\}", "(?P<name>.+)")
    )
    # Files converted from TensorFlow call a norm's weight gamma and its bias beta.
    return re.compile(escaped.replace(r"\*", "(?P<kind>weight|bias|gamma|beta)"))


def _fill(target: str, match: re.Match[str]) -> str:
    for what, found in match.groupdict().items():
        if what == "kind":
            target = target.replace("*", {"gamma": "weight", "beta": "bias"}.get(found, found))
        else:
            target = target.replace(f"{{{what}}}", found)
    return target


def rules(table: dict[str, str]) -> tuple[Rule, ...]:
    """Return one renaming for each entry."""
    return tuple(Rule(source, (target,)) for source, target in table.items())


QKV = tuple(f"layers.{{n}}.attention.{which}.*" for which in ("query", "key", "value"))


def _attention_of_torch(source: str) -> tuple[Rule, ...]:
    """Return the rules of one `torch.nn.MultiheadAttention` state dict under a prefix."""
    target = "layers.{n}" if "{n}" in source else "layers.0"
    qkv = [name.replace("layers.{n}", target) for name in QKV]
    separate = [
        Rule(f"{source}{which[0]}_proj_weight", (f"{target}.attention.{which}.weight",))
        for which in ("query", "key", "value")
    ]
    return (
        Rule(f"{source}in_proj_weight", tuple(name.replace("*", "weight") for name in qkv)),
        Rule(f"{source}in_proj_bias", tuple(name.replace("*", "bias") for name in qkv)),
        *separate,
        Rule(f"{source}out_proj.*", (f"{target}.attention.output.*",)),
    )


def _block_of_torch(source: str) -> tuple[Rule, ...]:
    """Return the rules of one `torch.nn.TransformerEncoderLayer` state dict under a prefix."""
    target = "layers.{n}" if "{n}" in source else "layers.0"
    table = {
        f"{source}linear1.*": f"{target}.feed_forward.up.*",
        f"{source}linear2.*": f"{target}.feed_forward.down.*",
        f"{source}norm1.*": f"{target}.attention_norm.*",
        f"{source}norm2.*": f"{target}.feed_forward_norm.*",
    }
    return (*_attention_of_torch(f"{source}self_attn."), *rules(table))


HEED = Naming(
    rules=(
        *_attention_of_torch(""),  # torch.nn.MultiheadAttention
        *_block_of_torch(""),  # torch.nn.TransformerEncoderLayer
        *_block_of_torch("layers.{n}."),  # torch.nn.TransformerEncoder
        *rules({"norm.*": "final_norm.*", "{name}.*": "{name}.*"}),  # what is canonical already
    ),
    head=rules({"head.*": "head.*", "head.dense.*": "head.dense.*", "head.norm.*": "head.norm.*"}),
)
