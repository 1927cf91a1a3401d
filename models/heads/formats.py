"""Other people's files of head sets, each read into the same words.

| file | whose | holds |
|---|---|---|
| yaml | QRHead | `attn_head_set: "14-22,13-16"` |
| json | CoRe, Retrieval Head | `{"15-21": score}`, a number or a list of them |
| json | Whisper, CTranslate2 | `{"alignment_heads": [[7, 0]]}`; also a bare list of pairs |
| json | Attention Tracker, vLLM-Hook | `{"params": {"important_heads": [[10, 6]]}}` |
| json | PASTA | `{"3": [17, 7]}` |
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.config import LARGEST_FILE_BYTES, read_json, shown
from models.errors import SpecError
from models.heads.sets import Pairs
from models.regular_files import open_file

PAIR = re.compile(r"(\d{1,6})-(\d{1,6})")
MOST_SCORED = 64  # heads of a file of scores that are taken for a set; more are a table of all of them
KINDS = (
    "QRHead's yaml, scores by head, alignment_heads, important_heads, PASTA's heads by layer, a list of pairs"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSet:
    """A head set as somebody else has written it: (layer, head) from 0, in the order of the file.

    `name`: what it is called where nobody gives it a name, "" where it should have one. `scores`: of each
    pair, where the file has them. `cross`: whether its heads look from one sequence at another.
    """

    name: str
    source: str
    pairs: Pairs
    scores: tuple[float, ...] | None = None
    cross: bool = False

    def best(self, top: int | None) -> "ForeignSet":
        """Return the pairs of the highest scores, or all; raises SpecError where it is not said which."""
        if self.scores is None:
            if top is not None:
                raise SpecError("this file has no scores to take the highest of; leave --top")
            return self
        if top is None and len(self.pairs) > MOST_SCORED:
            raise SpecError(
                f"this file has a score for each of {len(self.pairs)} heads; say how many are the set, as "
                "--top 8 does"
            )
        order = sorted(range(len(self.pairs)), key=lambda place: -self.scores[place])[:top]  # type: ignore[index]
        return ForeignSet(
            name=self.name,
            source=self.source,
            pairs=tuple(self.pairs[place] for place in order),
            scores=tuple(self.scores[place] for place in order),
            cross=self.cross,
        )


def read_foreign(path: Path) -> ForeignSet:
    """Return the set in somebody's yaml or json file; raises SpecError for what is none of them."""
    if path.suffix in (".yaml", ".yml"):
        return _qrhead(path)
    written = read_json_or_list(path)
    if isinstance(written, list):
        return ForeignSet(name="", source="", pairs=_pairs(written, path.name))
    if "alignment_heads" in written:
        pairs = _pairs(written["alignment_heads"], "alignment_heads")
        return ForeignSet(name="alignment", source="alignment_heads", pairs=pairs, cross=True)
    parameters = written.get("params")
    tracked = parameters if isinstance(parameters, dict) else written
    if "important_heads" in tracked:
        pairs = _pairs(tracked["important_heads"], "important_heads")
        return ForeignSet(name="tracker", source="Attention Tracker, arXiv:2411.00348", pairs=pairs)
    if written and all(PAIR.fullmatch(name) for name in written):
        pairs = tuple(_pair(name) for name in written)
        scores = tuple(_score(name, score) for name, score in written.items())
        return ForeignSet(name="retrieval", source="scores by head", pairs=pairs, scores=scores)
    if written and all(name.isdecimal() and isinstance(heads, list) for name, heads in written.items()):
        flat = [[int(name), head] for name, heads in written.items() for head in heads]
        return ForeignSet(name="pasta", source="PASTA, arXiv:2311.02262", pairs=_pairs(flat, path.name))
    raise SpecError(f"{path.name} is none of the files that are read: {KINDS}")


def read_json_or_list(path: Path) -> Any:
    """Return what a json file holds, an object or a list; raises SpecError."""
    try:
        return read_json(path)
    except SpecError as problem:
        if "must hold an object" not in str(problem):
            raise
    return read_json(path, top=list)


def _qrhead(path: Path) -> ForeignSet:
    try:
        with open_file(path) as file:
            body = file.read(LARGEST_FILE_BYTES + 1)
        if len(body) > LARGEST_FILE_BYTES:
            raise SpecError(
                f"{path.name} is over {LARGEST_FILE_BYTES} bytes, the limit for a configuration file"
            )
        written = yaml.safe_load(body)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as problem:
        raise SpecError(f"{path.name} cannot be read: {str(problem)[:120]}") from problem
    heads = written.get("attn_head_set") if isinstance(written, dict) else None
    if not isinstance(heads, str):
        raise SpecError(f'{path.name} has no attn_head_set, a string such as "14-22,13-16"')
    names = [name.strip() for name in heads.split(",") if name.strip()]
    if not names or not all(PAIR.fullmatch(name) for name in names):
        raise SpecError(f"attn_head_set is {shown(heads)}; it must name heads, such as 14-22,13-16")
    pairs = _once(tuple(_pair(name) for name in names), "attn_head_set")
    return ForeignSet(name="qr", source="QRHead, arXiv:2506.09944", pairs=pairs)


def _pair(name: str) -> tuple[int, int]:
    layer, head = name.split("-")
    return int(layer), int(head)


def _score(name: str, score: Any) -> float:
    """Return one number of a head: it, or the mean of those of several trials."""
    scores = score if isinstance(score, list) else [score]
    if not scores or not all(type(one) in (int, float) for one in scores):
        raise SpecError(f"the score of {name} must be a number, or a list of them")
    return sum(scores) / len(scores)


def _pairs(written: Any, what: str) -> Pairs:
    if not isinstance(written, list) or not written:
        raise SpecError(f"{what} is {shown(written)}; it must be a list of [layer, head]")
    for pair in written:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or any(type(one) is not int or one < 0 for one in pair)
        ):
            raise SpecError(f"{what} has {shown(pair)}; give [layer, head], whole numbers from 0")
    return _once(tuple((layer, head) for layer, head in written), what)


def _once(pairs: Pairs, what: str) -> Pairs:
    if len(set(pairs)) != len(pairs):
        raise SpecError(f"{what} has the same pair twice")
    return pairs
