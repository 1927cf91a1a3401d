"""Configurations of the native families, changed field by field: each agrees with eager, or is refused.

    python -m tests.models.configurations --count 3000 --seed 0

makes that many changed configurations, every single change first and then pairs by chance, serves each folder
and holds weights and hidden states of all layers against transformers' eager attention on the same folder.
It prints how many agreed, how many were refused by whom, and every one that was wrong or ended otherwise.
"""

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from models.errors import ModelError
from models.folders.huggingface.known import IDLE
from models.outputs import Selection
from models.protocol import Failure, Item, Tokens
from models.runtime import TorchRuntime
from tests.native_families import CASES, FIRST_WORD, WORDS

TOLERANCE = 1e-5  # of the largest number, at least 1
PADDING = 1
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "tanh", "quick_gelu", "nonesuch")
ROPE = {"rope_type": "default", "rope_theta": 500.0}
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}

# Fields that some family reads, or read once: given to every family, whether it knows them or not.
FOREIGN: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (True, None),
    "alibi": (True,),
    "attention_bias": (True, False),
    "attention_multiplier": (0.5,),
    "attn_logit_softcapping": (3.0,),
    "bidirectional": (True,),
    "embedding_multiplier": (2.0,),
    "embedding_size": (16, 32),
    "encoder_only": (True,),
    "head_dim": (8, 16),
    "hidden_act": ("relu",),
    "hidden_activation": ("relu", "gelu_pytorch_tanh"),
    "hidden_size": (16, 32),
    "intermediate_size": (24,),
    "is_causal": (False, None, 0, True),
    "is_decoder": (True, None),
    "is_encoder_decoder": (True,),
    "layer_norm_eps": (0.1,),
    "layer_types": (["full_attention"] * 3, ["sliding_attention", "full_attention", "full_attention"]),
    "max_position_embeddings": (32,),
    "mlp_bias": (True,),
    "no_rope_layers": ([1, 0, 1],),
    "num_attention_heads": (2,),
    "num_hidden_layers": (2,),
    "num_key_value_heads": (1, 4),
    "parallel_attn": (True,),
    "partial_rotary_factor": (0.5,),
    "per_layer_config": ({"0": {"num_attention_heads": 2}},),
    "position_embedding_type": ("relative_key", "relative_key_query", "absolute"),
    "pruned_heads": ({"0": [1]},),
    "qk_norm": (True,),
    "quantization_config": ({"quant_method": "bitsandbytes", "load_in_8bit": True},),
    "query_pre_attn_scalar": (7,),
    "relative_attention_num_buckets": (16,),
    "residual_multiplier": (0.5,),
    "rms_norm_eps": (0.1,),
    "rope_local_base_freq": (100.0,),
    "rope_parameters": (ROPE, SCALED),
    "rope_scaling": (ROPE, SCALED, None),
    "rope_theta": (500.0,),
    "rotary_emb_base": (500.0,),
    "rotary_pct": (0.75,),
    "scale_attn_by_inverse_layer_idx": (True,),
    "scale_attn_weights": (False,),
    "scale_embedding": (True,),
    "sinusoidal_pos_embds": (True,),
    "sliding_window": (4, None),
    "some_field_of_next_year": (1,),
    "use_bidirectional_attention": (True, "all"),
    "use_cache": (True,),
    "use_qk_norm": (True,),
    "use_sliding_window": (True,),
}
IDLE_VALUES: tuple[Any, ...] = (0.5, True, 3, "relu")


@dataclass
class Base:
    """One family as transformers saved it; its configuration is written anew for each change."""

    name: str
    config: dict[str, Any]
    folder: Path
    weights: Path

    @classmethod
    def saved(cls, name: str, repository: Path) -> "Base":
        """Make a model of random weights, attention far from uniform, and save it."""
        model_type, changes = CASES[name]
        torch.manual_seed(7)
        config = transformers.CONFIG_MAPPING[model_type](**changes)
        model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for label, tensor in model.named_parameters():
                words = "embed" in label or "wte" in label
                std = 0.2 if tensor.ndim == 1 else 1.0 if words else 1.4 / tensor.shape[-1] ** 0.5
                tensor.add_(torch.randn_like(tensor) * std)
        folder = repository / "model"
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        saved = json.loads((folder / "config.json").read_text())
        return cls(name, saved, folder, folder / "model.safetensors")

    def changes(self) -> list[tuple[str, Any]]:
        """Return every single change: of each field there is, and of each that another family has."""
        known = transformers.CONFIG_MAPPING[self.config["model_type"]]().to_dict() | self.config
        given = [(name, value) for name, old in known.items() for value in _others(name, old)]
        given += [(name, value) for name, values in FOREIGN.items() for value in values]
        given += [(name, value) for name in sorted(IDLE) for value in IDLE_VALUES if name not in known]
        seen: set[str] = set()
        unique = [one for one in given if repr(one) not in seen and not seen.add(repr(one))]
        return [one for one in unique if one[0] not in ("model_type", "transformers_version")]


def _others(name: str, old: Any) -> list[Any]:
    """Return other values for a field, of its own kind and of none."""
    if isinstance(old, bool):
        found: list[Any] = [not old, None]
    elif isinstance(old, int):
        found = [0, 1, old - 1, old + 1, 2 * old, None]
    elif isinstance(old, float):
        found = [0.0, 0.5, 2 * old, None]
    elif isinstance(old, str):
        found = [*ACTIVATIONS, None]
    elif isinstance(old, list):
        found = [old[::-1], old[:1] * len(old), old[:-1], None, ["sliding_attention"] * len(old)]
    elif isinstance(old, dict):
        found = [ROPE, SCALED, {**old, "partial_rotary_factor": 0.25}, {**old, "type": "dynamic"}, None, {}]
    else:
        found = [0, 1, 0.5, True, False, "relu", [1]]
    return [value for value in found if value != old or type(value) is not type(old)]


@dataclass
class Count:
    """What became of each configuration: `agreed` or `refused` are right, every other outcome is not."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, outcome: str, what: str) -> None:
        """Note one configuration."""
        self.outcomes[outcome] += 1
        if outcome in ("WRONG", "CRASH"):
            self.wrong.append(what)


IDS = [
    np.random.default_rng(3).integers(FIRST_WORD, WORDS, 21),
    np.array([5, 9, PADDING, PADDING, 31, 12, 2, 40, PADDING]),
]


def judge(base: Base, changes: dict[str, Any]) -> tuple[str, str]:
    """Serve one changed configuration and return what became of it, and the difference or reason."""
    (base.folder / "config.json").write_text(json.dumps(base.config | changes))
    try:
        runtime = TorchRuntime(base.folder.parent, models=("model",), device="cpu", dtype="float32")
    except ModelError as reason:
        return "refused", str(reason)
    except Exception as problem:  # noqa: BLE001 - the point of this is to see whether there is any
        return "CRASH", f"{type(problem).__name__}: {problem}"
    card = runtime.card("model")
    way = "by transformers" if card.kernel.startswith("transformers") else "natively"
    expected = _eager(base.folder)
    if expected is None:
        return f"served {way}, transformers cannot", ""
    layers = tuple(range(card.layers))
    chosen = Selection(outputs=("weights", "hidden"), layers=layers, layer_axis=True)
    items = [Item(card=card, input=Tokens(ids=ids), selection=chosen) for ids in IDS]
    away = 0.0
    for answer, want in zip(runtime.run(items).answers, expected, strict=True):
        if isinstance(answer, Failure):
            away = max(away, 0.0 if not all(np.isfinite(one).all() for one in want.values()) else np.inf)
            continue
        for name, array in want.items():
            got = answer.tensors[name]
            if got.shape != array.shape:
                return "WRONG", f"{name} is {got.shape}, eager's {array.shape}"
            difference = float(np.abs(got - array).max()) / max(1.0, float(np.abs(array).max()))
            away = max(away, np.inf if np.isnan(difference) else difference)
    return (f"agreed {way}" if away <= TOLERANCE else "WRONG"), f"{away:.1e} away, {way}"


def _eager(folder: Path) -> list[dict[str, np.ndarray]] | None:
    """Return what transformers' eager attention gives for the folder; None where it cannot load or run it."""
    try:
        model, found = transformers.AutoModel.from_pretrained(
            folder,
            attn_implementation="eager",
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
        if found["missing_keys"] or found["mismatched_keys"]:
            return None
        outs = []
        with torch.inference_mode():
            for ids in IDS:
                out = model.eval()(
                    input_ids=torch.from_numpy(ids)[None], output_attentions=True, output_hidden_states=True
                )
                hidden = [*out.hidden_states[1:-1], out.last_hidden_state]
                weights = torch.cat(out.attentions)
                outs.append({"weights": weights.numpy(), "hidden": torch.cat(hidden).numpy()})
    except Exception:  # noqa: BLE001 - transformers raises whatever comes
        return None
    return outs


def configurations(base: Base, *, pairs: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Yield every single change, then so many pairs of changes of two fields."""
    singles = base.changes()
    yield from ({name: value} for name, value in singles)
    for _ in range(pairs):
        (first, one), (second, other) = chance.sample(singles, 2)
        if first != second:
            yield {first: one, second: other}


def main(arguments: list[str]) -> int:
    """Print the counts; return 1 where any configuration was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=3000, help="how many changed configurations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name begins so")
    options = parser.parse_args(arguments)
    quiet()
    chance, count = random.Random(options.seed), Count()
    names = [name for name in CASES if name.startswith(options.only)]
    share = -(-options.count // len(names))
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            base = Base.saved(name, Path(scratch))
            changed = list(configurations(base, pairs=share, chance=chance))
            chosen = chance.sample(changed, share) if len(changed) > share and options.count else changed
            for changes in chosen:
                outcome, why = judge(base, changes)
                count.add(outcome, f"{name} {changes}: {why}")
            sys.stderr.write(f"{name:34s}{dict(count.outcomes)}\n")
    total = sum(count.outcomes.values())
    counts = ", ".join(f"{number} {what}" for what, number in count.outcomes.items())
    sys.stdout.write("\n".join([f"{total} changed configurations: {counts}", *count.wrong, ""]))
    return 1 if count.wrong else 0


def quiet() -> None:
    """Let no library print about every one of thousands of odd folders."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("models", "transformers"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    torch.set_num_threads(1)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
