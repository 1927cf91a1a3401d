"""Texts that a model's folder gives as examples: what a page offers to a first visitor."""

import json
from pathlib import Path

from models.errors import SpecError
from models.regular_files import open_regular

FILE = "examples.json"
MOST, LONGEST = 8, 500  # texts, characters of one
MOST_BYTES = 1 << 16


def read_examples(folder: Path) -> tuple[str, ...]:
    """Return the texts of `examples.json`, a list of strings; anything else is somebody else's file."""
    try:
        with open_regular(folder / FILE) as file:
            found = json.loads(file.read(MOST_BYTES))
    except (SpecError, OSError, ValueError, RecursionError):
        return ()
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        return ()
    return tuple(one for one in found if 0 < len(one) <= LONGEST)[:MOST]
