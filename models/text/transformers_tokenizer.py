"""A tokenizer as transformers makes it, for classes whose rules are known to transformers alone.

No code of a folder is run, and nothing is fetched. What is taken is the `tokenizers` tokenizer inside.
"""

from dataclasses import dataclass
from pathlib import Path

import transformers
from tokenizers import Tokenizer

from models.errors import TextError

__all__ = ["Made", "load"]


@dataclass(frozen=True, slots=True)
class Made:
    """A tokenizer, whether its second texts have types of their own, and the side where texts are cut."""

    tokenizer: Tokenizer
    types: bool
    side: str


def load(folder: Path) -> Made:
    """Return the tokenizer of a folder; raise TextError where there is none, or only one in Python."""
    try:
        made = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except MemoryError:
        raise
    except Exception as problem:  # its classes raise whatever they meet
        raise TextError(f"transformers cannot read the tokenizer: {str(problem)[:200]}") from problem
    inner = getattr(made, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer):
        raise TextError(
            f"{type(made).__name__} is written in Python, which is not served; save a tokenizer.json"
        )
    return Made(
        Tokenizer.from_str(inner.to_str()), "token_type_ids" in made.model_input_names, made.truncation_side
    )
