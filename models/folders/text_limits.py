"""Where a model's texts are cut, and whether a text has any room there beside what is put around it."""

from typing import Any

from models.config import shown
from models.errors import SpecError, TextError, TooLong
from models.folders.families import Folder
from models.text.tokenizer import Tokenizer, most_bytes


def text_limit(folder: Folder, tokenizer: Tokenizer | None, positions: int | None) -> dict[str, Any]:
    """Return where a text is cut: where the folder says, and never beyond the model's positions.

    Raises SpecError for a limit, or a prompt, that leaves no room for a text: no request could mend it.
    """
    limit, by = folder.sentence.cut_at, folder.sentence.cut_by
    if limit is None and folder.tokenizer is not None and folder.tokenizer.limit is not None:
        limit, by = folder.tokenizer.limit, "model_max_length of tokenizer_config.json"
    special = 0 if tokenizer is None else tokenizer.special
    if limit is not None and limit <= special:
        raise SpecError(
            f"{by} is {limit}; a text has {special} special tokens, so give {special + 1} or more"
        )
    if limit is None or (positions is not None and limit >= positions):
        limit, by = positions, ""
    if tokenizer is not None:
        for name, prompt in folder.sentence.prompts.items():
            _require_readable(name, prompt, tokenizer, limit)
    return {"max_text_tokens": limit, "text_limit": by}


def _require_readable(name: str, prompt: str, tokenizer: Tokenizer, limit: int | None) -> None:
    """Raise SpecError for a prompt that no text could follow."""
    trouble, most = "", most_bytes(limit or 0)
    if len(prompt) > most:
        trouble = f"it has {len(prompt)} characters, the limit is {most}"
    elif prompt.strip():
        try:
            tokenizer.encode(prompt, limit=limit)
        except (TextError, TooLong) as problem:
            trouble = str(problem)
    if trouble:
        raise SpecError(f"the prompt {shown(name)} of config_sentence_transformers.json: {trouble}")
