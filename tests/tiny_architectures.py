"""Every architecture that transformers has, small and with random weights: for sweeps over all of them.

    python -m tests.tiny_architectures FOLDER [MODEL_TYPE ...]

makes each that can be made, serves it from the folder, compares it with eager attention alone and in a ragged
batch, and prints a line each and the counts: agrees, refused (with the reason), wrong, crashed.
"""

import copy
import inspect
import logging
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from models.errors import ModelError
from models.outputs import Selection
from models.protocol import Answer, Item, ModelCard, Tokens
from models.runtime import TorchRuntime

TOLERANCE = 1e-5
LENGTHS = (23, 1, 40, 7, 2, 18, 40, 31)
SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "emb_dim": 32,
    "embed_dim": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "hidden_dim": 48,
    "n_inner": 48,
    "d_inner": 48,
    "d_ff": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "ffn_hidden_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "intermediate_size_mlp": 48,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_experts": 2,
    "num_local_experts": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "n_group": 1,
    "topk_group": 1,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 2,
    "type_vocab_size": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
SPECIALLY: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {"axial_pos_embds": False},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "longcat_flash": {"expert_ffn_hidden_size": 24, "zero_expert_num": 1, "n_routed_experts": 2},
    "esmc": {"num_key_value_heads": 4},
}
MOST_PARAMETERS = 2**26


def architectures() -> list[str]:
    """Return every model_type that transformers' AutoModel knows, sorted."""
    return sorted(MODEL_MAPPING_NAMES)


def tiny_config(model_type: str, changes: dict[str, Any] | None = None) -> Any:
    """Return a small configuration: known sizes wherever the configuration has a field of that name."""
    cls = transformers.CONFIG_MAPPING[model_type]
    plain = cls()
    has = set(plain.to_dict()) | set(inspect.signature(cls.__init__).parameters)
    names = has - set(getattr(cls, "sub_configs", {}))
    listed = {name for name in names if isinstance(getattr(plain, name, None), list | tuple)}
    given = {name: value for name, value in SIZES.items() if name in names - listed}
    if "qk_rope_head_dim" in names:  # DeepSeek's kin: the head's width is that of its rotary part
        given.pop("head_dim", None)
        given["num_key_value_heads"] = SIZES["num_attention_heads"]
    sections = (getattr(plain, "rope_parameters", None) or {}).get("mrope_section")
    if sections and isinstance(getattr(plain, "rope_parameters", None), dict):
        given["rope_parameters"] = plain.rope_parameters | {"mrope_section": [2, 1, 1]}
    given |= SPECIALLY.get(model_type, {})
    for name in getattr(cls, "sub_configs", {}):
        sub = getattr(plain, name, None)
        if sub is not None and getattr(sub, "model_type", ""):
            given[name] = tiny_config(sub.model_type).to_dict()
    return cls(**(given | (changes or {})))


def tiny(
    model_type: str,
    *,
    seed: int = 7,
    changes: dict[str, Any] | None = None,
    cls_name: str = "",
    scattered: bool = True,
) -> Any:
    """Return a small model with random weights, attention far from uniform; raise whatever it raises.

    `cls_name`: of which class, where not the bare one. Not `scattered`: drawn as transformers does.
    """
    torch.manual_seed(seed)
    config = tiny_config(model_type, changes)
    found = getattr(transformers, cls_name) if cls_name else transformers.MODEL_MAPPING[type(config)]
    cls = found[0] if isinstance(found, tuple | list) else found
    with torch.device("meta"):
        size = sum(one.numel() for one in cls._from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{model_type} would have {size} parameters")
    model = cls._from_config(config, attn_implementation="eager").eval()
    if scattered:
        scatter(model)
    return model


def scatter(model: Any) -> None:
    """Draw parameters anew, such that layers change what they are given."""
    computed = [name for name, one in model.named_modules() if "Sinusoidal" in type(one).__name__]
    with torch.no_grad():
        for label, tensor in model.named_parameters():
            if not tensor.is_floating_point() or label.rpartition(".")[0] in computed:
                continue
            if tensor.ndim <= 1:
                tensor.add_(torch.randn_like(tensor) * 0.2)
            else:
                words = any(word in label for word in ("embed", "wte", "wpe", "shared", "relative"))
                scaled = getattr(model.config, "scale_embedding", False)  # by √d, after they are looked up
                width = float(tensor.shape[-1]) ** 0.5
                tensor.normal_(std=(1 / width if scaled else 1.0) if words else 1.4 / width)


def eager(model: Any, given: Tokens, part: str, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return weights [L, H, T, S] and hidden [L, T, D] by transformers' eager attention, of ids or rows."""
    stack = model.get_decoder() if part else model
    if not part and model.config.is_encoder_decoder:
        stack = model.get_encoder()
    more: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    if "use_cache" in inspect.signature(stack.forward).parameters:
        more["use_cache"] = False
    if given.ids is not None:
        more["input_ids"] = torch.from_numpy(given.ids)[None]
    else:
        more["inputs_embeds"] = torch.from_numpy(np.asarray(given.embeddings))[None]
    if given.memory is not None:
        more["encoder_hidden_states"] = torch.from_numpy(given.memory)[None].to(model.dtype)
    if mask is not None:
        more["attention_mask"] = torch.from_numpy(mask.astype(np.int64))[None]
    with torch.inference_mode():
        out = stack(**more)
    weights = out.cross_attentions if part == "cross" else out.attentions
    hidden = [*out.hidden_states[1:-1], out.last_hidden_state]
    return {"weights": torch.cat(list(weights)).numpy(), "hidden": torch.cat(hidden).numpy()}


def sequences(card: ModelCard, *, longest: bool = True) -> list[Tokens]:
    """Return a ragged batch of eight, the last as long as the model allows where that is short."""
    chance = np.random.default_rng(3)
    limit = card.max_tokens or 2**20
    lengths = [min(length, limit) for length in LENGTHS]
    if longest and card.max_tokens is not None and card.max_tokens <= 2048:
        lengths[-1] = card.max_tokens
    made = []
    for length in lengths:
        memory = None
        if card.part:
            memory = chance.standard_normal((max(1, length * 7 % 23), card.d_model), dtype=np.float32)
        made.append(Tokens(ids=chance.integers(0, card.vocabulary or 1, length), memory=memory))
    return made


def agreement(runtime: TorchRuntime, card: ModelCard, model: Any) -> tuple[float, float]:
    """Return the largest distance from eager attention, relative to the largest number, and what it may be.

    That is 1e-5, or four times what eager itself is away from float64, where its own rounding goes further.
    """
    if card.vocabulary is None:
        return 0.0, TOLERANCE  # of pixels: compared where it is loaded
    chosen = Selection(outputs=("weights", "hidden"), layers=tuple(range(card.layers)), layer_axis=True)
    given = sequences(card)
    items = [Item(card=card, input=one, selection=chosen) for one in given]
    together = runtime.run(items).answers
    exact = copy.deepcopy(model).double()
    worst, allowed = 0.0, TOLERANCE
    for one, item, answer in zip(given, items, together, strict=True):
        expected = eager(model, one, card.part)
        for found in (answer, *runtime.run([item]).answers):
            assert isinstance(found, Answer), found
            worst = max(worst, *(away(found.tensors[name], right) for name, right in expected.items()))
        if worst > allowed:
            right = eager(exact, one, card.part)
            allowed = max(allowed, *(4 * away(expected[name], right[name]) for name in right))
    return worst, allowed


def away(found: np.ndarray, right: np.ndarray) -> float:
    """Return the largest difference, relative to the largest number or 1; 0 where that is not finite."""
    if not np.isfinite(right).all():
        return 0.0
    return float(np.abs(found - right).max()) / max(1.0, float(np.abs(right).max()))


def verdict(model_type: str, folder: Path) -> tuple[str, str]:
    """Return what became of one architecture, in a word, and the rest."""
    try:
        model = tiny(model_type)
        model.save_pretrained(folder / "model")
        # What transformers itself reads of the folder is right: Youtu's loading empties the padding row.
        model = type(model).from_pretrained(folder / "model", attn_implementation="eager").eval()
    except Exception as problem:  # noqa: BLE001 - transformers raises whatever comes
        return "not made", f"{type(problem).__name__}: {str(problem)[:100]}"
    try:
        runtime = TorchRuntime(folder, models=("model",), device="cpu", dtype="float32")
    except ModelError as problem:
        return "refused", str(problem)
    except Exception:  # noqa: BLE001 - what is counted
        return "crashed", traceback.format_exc(limit=-1).replace("\n", " ")
    try:
        found = [agreement(runtime, card, model) for card in runtime.cards()]
    except Exception:  # noqa: BLE001 - what is counted
        return "crashed", "served: " + traceback.format_exc(limit=-2).replace("\n", " ")
    card = runtime.card("model")
    worst = max(worst for worst, _ in found)
    about = f"{worst:.1e} {card.kernel}, {'/'.join(card.inputs)}, max {card.max_tokens}"
    return ("agrees" if all(worst <= allowed for worst, allowed in found) else "wrong"), about


def main(folder: Path, names: Iterable[str]) -> None:
    """Print what became of each architecture, and the counts."""
    torch.set_num_threads(1)
    logging.getLogger("models.runtime").setLevel(logging.CRITICAL)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    counts: Counter[str] = Counter()
    for name in names:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        word, about = verdict(name, folder)
        counts[word] += 1
        sys.stdout.write(f"{name:36s} {word:9s} {about[:300]}\n")
        sys.stdout.flush()
    sys.stdout.write(", ".join(f"{word} {count}" for word, count in sorted(counts.items())) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or architectures())
