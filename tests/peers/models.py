"""The folders that our server and other people's tools read: small models of random weights."""

from pathlib import Path

import tokenizers
import transformers
from tokenizers import models, pre_tokenizers

from tests.native_families import FIRST_WORD, GEMMA2, GPT2, GROUPED, SIZES, SPECIAL, WORDS
from tests.transformers_models import save_random

MASK = WORDS - 1
ESM = SIZES | {
    "vocab_size": 33,
    "mask_token_id": 32,
    "position_embedding_type": "rotary",
    "token_dropout": True,
}
DECODERS = {
    "gpt2": (SPECIAL | GPT2, "GPT2LMHeadModel"),
    "llama": (GROUPED, "LlamaForCausalLM"),
    "gemma2": (GEMMA2 | {"final_logit_softcapping": 20.0}, "Gemma2ForCausalLM"),
    "mistral": (GROUPED | {"sliding_window": 6}, "MistralForCausalLM"),
    "qwen2": (GROUPED | {"num_hidden_layers": 4, "max_position_embeddings": 128}, "Qwen2ForCausalLM"),
    "qwen3": (GROUPED | {"head_dim": 16}, "Qwen3ForCausalLM"),
    "granite": (GROUPED | {"attention_multiplier": 0.3, "logits_scaling": 2.0}, "GraniteForCausalLM"),
}
ENCODERS = {"bert": (SIZES, "BertForMaskedLM"), "esm": (ESM, "EsmForMaskedLM")}
FOLDERS = DECODERS | ENCODERS
EDITED = ("gpt2", "llama", "gemma2", "mistral", "qwen2", "qwen3", "granite", "bert")
CAPTURED = ("gpt2", "qwen3")
WORD_LIST = ["<s>", "<pad>", "</s>", *(f"w{number}" for number in range(FIRST_WORD, MASK)), "[MASK]"]


def head_width(name: str) -> int:
    """Return how many numbers z of one head of one model has."""
    changes = FOLDERS[name][0]
    width = changes.get("head_dim") or changes.get("hidden_size", changes.get("n_embd")) // 4
    return int(width)


def save_models(repository: Path) -> None:
    """Save every model into a folder of its name; all but ESM's have a tokenizer of the same fifty words."""
    for name, (changes, cls) in FOLDERS.items():
        save_random(name, changes, cls, repository / name)
        if name != "esm":
            tokenizer().save_pretrained(repository / name)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer of one token a word: `w3` to `w48`, three special ones before them and a mask."""
    made = tokenizers.Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORD_LIST)}, unk_token="<pad>")
    )
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<pad>",
        mask_token="[MASK]",
    )


def eager(cls: str, folder: Path) -> transformers.PreTrainedModel:
    """Return a model as transformers reads its folder, with the attention that forms whole matrices."""
    return getattr(transformers, cls).from_pretrained(folder, attn_implementation="eager").eval()
