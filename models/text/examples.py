"""Texts that a model's folder gives as examples: what a page offers to a first visitor."""

import logging
from pathlib import Path

from models.config import read_json
from models.errors import SpecError
from models.regular_files import is_there

log = logging.getLogger(__name__)

FILE = "examples.json"
MOST, LONGEST = 8, 500  # texts, characters of one
MOST_BYTES = 1 << 16


def read_examples(folder: Path) -> tuple[str, ...]:
    """Return the texts of `examples.json`, a list of strings; anything else is ignored, and logged."""
    try:
        found = read_json(folder / FILE, top=list, limit_bytes=MOST_BYTES) if is_there(folder / FILE) else []
        if not all(isinstance(one, str) for one in found):
            raise SpecError(f"{FILE} must hold a list of texts")
    except SpecError as problem:
        log.warning("the examples of %s are ignored: %s", folder.name, problem)
        return ()
    return tuple(one for one in found if 0 < len(one) <= LONGEST)[:MOST]
