"""A tokenizer as transformers makes it, for classes whose rules are known to transformers alone.

No code of a folder is run, and nothing is fetched. What is taken is the `tokenizers` tokenizer inside.
"""

from pathlib import Path

import transformers
from tokenizers import Tokenizer

from models.errors import TextError

__all__ = ["load"]


def load(folder: Path) -> tuple[Tokenizer, bool, str]:
    """Return a folder's tokenizer, whether a second text has types of its own, and the side that is cut.

    Raises TextError where there is none, or only one in Python.
    """
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
    types = "token_type_ids" in made.model_input_names
    return Tokenizer.from_str(inner.to_str()), types, made.truncation_side
