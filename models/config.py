"""`config.json` files: read strictly, and turned into specification classes field by field.

Strictly: a size limit, UTF-8, no duplicate names, no NaN or Infinity, bounded depth, an object at the top.
Every problem is a SpecError that names the file or the field, in a message that is never long.
"""

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from models.errors import SpecError
from models.regular_files import open_file

LARGEST = 2**31 - 1  # every integer of a specification has an upper bound
LARGEST_FLOAT = float(2**128 - 2**104)  # the largest float32, in which all is computed
LEAST_FLOAT = 2.0**-126  # the least that float32 has with all its digits; far under it there is only 0
LARGEST_FILE_BYTES = 16 * 2**20  # an index of thousands of shards is far below this


def read_json(path: Path, *, top: type = dict, limit_bytes: int = LARGEST_FILE_BYTES) -> Any:
    """Return what a JSON file holds, an object (`top` list: a list); raise SpecError for anything else."""
    try:
        with open_file(path) as file:
            body = file.read(limit_bytes + 1)
    except OSError as problem:
        raise SpecError(f"{path.name} cannot be read: {problem.strerror}") from problem
    if len(body) > limit_bytes:
        raise SpecError(f"{path.name} is over {limit_bytes} bytes, the limit for a configuration file")
    try:
        content = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_constant)
    except SpecError as problem:
        raise SpecError(f"{path.name}: {problem}") from None
    except RecursionError:
        raise SpecError(f"{path.name} is nested too deeply") from None
    except ValueError as problem:  # JSONDecodeError and UnicodeDecodeError, and integers of too many digits
        raise SpecError(f"{path.name} is not JSON: {str(problem)[:120]}") from None
    if not isinstance(content, top):
        raise SpecError(f"{path.name} must hold {'an object' if top is dict else 'a list'}")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise SpecError(f"{shown(twice)} is given twice in one object; keep one")
    return content


def _constant(name: str) -> Any:
    raise SpecError(f"{name} is not a number in JSON; give a finite one")


LONGEST_SHOWN = 80


def shown(value: object) -> str:
    """Return a value for a message: quoted and escaped, cut to about 80 characters."""
    text = ascii(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 4]}...{text[-1]}"


def build(cls: Any, body: object, *, where: str = "") -> Any:
    """Make one specification class from parsed JSON, naming the field at fault by its path.

    Unknown and missing fields, and values of another type than the field's, raise SpecError.
    """
    if not isinstance(body, dict):
        raise SpecError(f"{where.rstrip('.') or 'the configuration'} must be an object")
    known = {f.name: f for f in fields(cls)}
    for name in body:
        if name not in known:
            raise SpecError(f"unknown field {where}{shown(name)}; known here: {', '.join(known)}")
    hints = get_type_hints(cls)
    for name, one in known.items():
        if name not in body and one.default is MISSING and one.default_factory is MISSING:
            raise SpecError(f"{where}{name} is missing")
    return cls(**{name: _value(hints[name], value, where=f"{where}{name}") for name, value in body.items()})


def _value(hint: Any, value: object, *, where: str) -> Any:
    """Check one parsed JSON value against a type hint and return it as that type."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        (inner,) = (arg for arg in get_args(hint) if arg is not NoneType)
        return _value(inner, value, where=where)
    if origin is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            raise SpecError(f"{where} is {shown(value)}; choose one of {', '.join(get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SpecError(f"{where} must be a list")
        inner = get_args(hint)[0]
        return tuple(_value(inner, v, where=f"{where}[{i}]") for i, v in enumerate(value))
    if is_dataclass(hint):
        return build(hint, value, where=f"{where}.")
    return _number(hint, value, where=where) if hint in (int, float) else _exact(hint, value, where=where)


def _exact(hint: type, value: object, *, where: str) -> Any:
    if type(value) is not hint:
        raise SpecError(f"{where} is {shown(value)}; it must be of type {hint.__name__}")
    return value


def _number(hint: type, value: object, *, where: str) -> Any:
    """Return a whole or a finite number within bounds; a whole one may stand for a float, never a bool."""
    if type(value) is float and not math.isfinite(value):
        raise SpecError(f"{where} is {value}; give a finite number")
    if type(value) is int or (type(value) is float and hint is float):
        limit = LARGEST if hint is int else LARGEST_FLOAT
        if abs(value) > limit:
            raise SpecError(f"{where} is beyond ±{limit}, the limit of such a number")
        return hint(value)
    return _exact(hint, value, where=where)
