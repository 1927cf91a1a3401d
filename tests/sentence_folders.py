"""Small sentence-transformers folders, each with something its files say, and what `encode` gives."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer import modules as st
from torch import nn

from tests.tokenizer_folders import write as write_tokenizer

WIDTH = 16
SIZES: dict[str, Any] = {
    "vocab_size": 560,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
PROMPTS = {"prompts": {"query": "search the River: ", "document": ""}, "default_prompt_name": "query"}
# By kind: the configuration, the class, the tokenizer's class, and what else its configuration says.
KINDS: dict[str, tuple[str, dict[str, Any], str, str, dict[str, Any]]] = {
    "bert": ("bert", SIZES, "BertModel", "BertTokenizer", {}),
    "cased": ("bert", SIZES, "BertModel", "BertTokenizer", {"do_lower_case": False}),
    "left": (
        "qwen3",
        GROUPED,
        "Qwen3Model",
        "Qwen2Tokenizer",
        {"padding_side": "left", "pad_token": "<|endoftext|>"},
    ),
    "embeddinggemma": (
        "gemma3_text",
        GROUPED
        | {"use_bidirectional_attention": True, "sliding_window": 8, "sliding_window_pattern": 2}
        | {"query_pre_attn_scalar": 8},
        "Gemma3TextModel",
        "GemmaTokenizer",
        {"add_bos_token": True, "add_eos_token": True},
    ),
    "modernbert": (
        "modernbert",
        SIZES | {"local_attention": 8, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 2},
        "ModernBertModel",
        "BertTokenizer",
        {"unk_token": "[UNK]", "pad_token": "[PAD]"},
    ),
}
Modules = Callable[[], list[nn.Module]]


def pool(mode: Any, *more: Callable[[], nn.Module], **options: Any) -> Modules:
    return lambda: [st.Pooling(WIDTH, pooling_mode=mode, **options), *(make() for make in more)]


def dense(inputs: int = WIDTH, outputs: int = 6, **options: Any) -> Callable[[], nn.Module]:
    return partial(Dense, inputs, outputs, **options)


def layer_norm() -> nn.Module:
    made = st.LayerNorm(WIDTH)
    with torch.no_grad():
        made.norm.weight.normal_(1, 0.3)
        made.norm.bias.normal_(0, 0.3)
    return made


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content | changes))

    return changed


def old_layout(folder: Path) -> None:
    home = folder / "0_Transformer"
    home.mkdir()
    for file in list(folder.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            shutil.move(file, home / file.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    edit("0_Transformer/sentence_bert_config.json", max_seq_length=12)(folder)


FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def flags(*on: str) -> Callable[[Path], None]:
    """Pooling as older files say it."""

    def changed(folder: Path) -> None:
        config = {f"pooling_mode_{flag}": flag in on for flag in FLAGS}
        file = folder / "1_Pooling" / "config.json"
        file.write_text(json.dumps({"word_embedding_dimension": WIDTH, **config}))

    return changed


MEAN = pool("mean")
SENTENCE = partial(edit, "sentence_bert_config.json")
SETTINGS = partial(edit, "config_sentence_transformers.json")
TOKENIZER = partial(edit, "tokenizer_config.json")
# By name: the kind, the modules after the transformer, and what is changed in the folder afterwards.
FOLDERS: dict[str, tuple[str, Modules, tuple[Callable[[Path], None], ...]]] = {
    **{
        f"mode-{mode}": ("bert", pool(mode), ())
        for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    },
    **{f"left-{mode}": ("left", pool(mode, Normalize), ()) for mode in ("lasttoken", "weightedmean", "mean")},
    "two-modes": ("bert", pool(("mean", "cls")), ()),
    "flags": ("bert", MEAN, (flags("mean_tokens", "lasttoken", "cls_token"),)),
    "no-flags": ("bert", MEAN, (flags(),)),
    "dense": ("bert", pool("mean", dense(), Normalize), ()),
    "dense-bare": ("bert", pool("cls", dense(bias=False, activation_function=nn.Identity())), ()),
    "dense-three": (
        "bert",
        pool(
            ("cls", "max"),
            Normalize,
            dense(2 * WIDTH, WIDTH, activation_function=nn.GELU()),
            dense(use_residual=True),
            dense(6, 6, use_residual=True, activation_function=nn.ReLU()),
        ),
        (),
    ),
    "norms": ("bert", pool("mean", Normalize, layer_norm, partial(st.Dropout, 0.5), Normalize), ()),
    "modernbert-dense": ("modernbert", pool("mean", dense(), Normalize), ()),
    "embeddinggemma": (
        "embeddinggemma",
        pool(
            "mean",
            dense(WIDTH, 4 * WIDTH, bias=False, activation_function=nn.Identity()),
            dense(4 * WIDTH, WIDTH, bias=False, activation_function=nn.Identity()),
            Normalize,
        ),
        (SETTINGS(prompts={"query": "task: search result | query: ", "document": "title: none | text: "}),),
    ),
    "cut-at": ("bert", pool("mean", Normalize), (SENTENCE(max_seq_length=12),)),
    "cut-beyond-tokenizer": ("bert", MEAN, (TOKENIZER(model_max_length=9), SENTENCE(max_seq_length=14))),
    "cut-by-tokenizer": ("bert", MEAN, (TOKENIZER(model_max_length=9),)),
    "cut-left": ("bert", MEAN, (TOKENIZER(model_max_length=9, truncation_side="left"),)),
    "lower": ("cased", MEAN, (SENTENCE(do_lower_case=True),)),
    "cased": ("cased", MEAN, ()),
    "default-prompt": ("bert", pool("mean", Normalize), (SETTINGS(**PROMPTS),)),
    "prompts": ("bert", MEAN, (SETTINGS(prompts=PROMPTS["prompts"]),)),
    **{
        f"prompt-left-out-{mode}": ("bert", pool(mode, include_prompt=False), (SETTINGS(**PROMPTS),))
        for mode in ("mean", "weightedmean", "cls", "max")
    },
    "prompt-left-out-of-left": ("left", pool("mean", include_prompt=False), (SETTINGS(**PROMPTS),)),
    "truncate-dim": ("bert", pool("mean", Normalize), (SETTINGS(truncate_dim=5),)),
    "old-layout": ("bert", pool("cls", Normalize), (old_layout,)),
    "similarity": ("bert", MEAN, (SETTINGS(similarity_fn_name="dot", anything="else"),)),
}


def build(folder: Path, kind: str, modules: Modules, changes: tuple[Callable[[Path], None], ...]) -> None:
    """Write one folder as sentence-transformers saves it, then change it."""
    family, sizes, name, tokenizer, fields = KINDS[kind]
    raw = folder.with_name(f".{folder.name}")
    write_tokenizer(raw, tokenizer, fields)
    torch.manual_seed(len(folder.name))
    model = getattr(transformers, name)(transformers.CONFIG_MAPPING[family](**sizes)).eval()
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one) * (0.3 if one.ndim > 1 else 0.1))
    model.save_pretrained(raw)
    made = SentenceTransformer(modules=[Transformer(str(raw)), *modules()], device="cpu")
    made.save(str(folder), create_model_card=False)
    shutil.rmtree(raw)
    for change in changes:
        change(folder)


def encode(folder: Path, texts: list[str], **options: Any) -> Any:
    """What sentence-transformers itself gives, [N, width]."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(texts, show_progress_bar=False, **options)
