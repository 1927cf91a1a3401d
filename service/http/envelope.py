"""From what a body or a query says to a checked request, or to a message that names what is wrong and where.

The second half of decoding, the same for every format. What peers' clients send that means nothing here,
nulls and names that are not ours, is taken. Nothing a caller wrote is repeated but the names of fields, at
most ten problems are listed, and lists stop at their first.
"""

import logging
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.errors import Invalid, Malformed
from service.wire import json_format
from service.wire.effort import spend
from service.wire.names import member, quoted

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)

MOST_PROBLEMS = 10
MOST_NAMES = 256  # that are ignored, remembered; beyond them nothing more is logged
QUERY_US = 2.0  # what an item of a list in the query takes to be read
CHECKED_US = 1.5  # what an item of a list takes to be checked
MOST_OPTIONS = 64
LISTS = frozenset({"outputs", "heads", "rows", "columns", "targets"})  # one value in a query is a list of one
WORDS = frozenset({"outputs", "dtype", "similarity"})  # never read as JSON literals

# Fields of several types: pydantic reports one problem a type, none of which is the remedy.
_UNIONS = {
    "layers": f'must be a number, a list of numbers, or "all"; numbers within ±{2**31 - 1}',
    "heads": 'must be a list of numbers, or of pairs [layer, head], or {"pairs", "weights"}, or a name',
    "spans": 'must be a list of [start, end], whole numbers from 0, or {"name": [start, end]}, names of 1 to '
    '64 characters, or "words"',
    "rows": "must be a list of numbers, ranges [start, end] and names of spans, or "
    '{"start": number, "stop": number or null}, or {"outside": such a list}',
    "columns": "must be a list of ranges [start, end], whole numbers from 0, and names of spans",
    "share": 'must be {"of": …, "over": …}, each a range [start, end], a name of a span, or a list of these',
}
_ITEMS = {
    "targets": "must be a token id, a whole number from 0, or a string of one token, of 1 to 256 characters"
}  # of lists of several types
_TYPES = {
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "is_instance_of": "must be an array",
    "missing": "is missing",
}
_BESIDE = ("title", "description", "default")  # of a schema, said of the field and not of one of its types
_NULL = {"type": "null"}
_BOUNDS = {
    "greater_than": ("gt", "must be above"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be below"),
    "less_than_equal": ("le", "must be at most"),
    "literal_error": ("expected", "must be one of"),
    "string_too_short": ("min_length", "must have characters, at least"),
    "string_too_long": ("max_length", "has too many characters; the limit is"),
}


class NullIsAbsent(BaseModel):
    """A part of a request in which null stands for a field that is not given, where it need not be.

    Clients write every option they know, null where it is not set, and OpenAI's own service takes no notice.
    """

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for value in given.values():
            if value is None:
                break
        else:
            return given
        fields = cls.model_fields
        return {
            name: value
            for name, value in given.items()
            if value is not None or name not in fields or fields[name].is_required()
        }

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        described = handler.resolve_ref_schema(schema)
        for name, field in described.get("properties", {}).items():
            types = field.get("anyOf", [])
            if name in described.get("required", ()) or _NULL in types:
                continue
            own = {key: field.pop(key) for key in _BESIDE if key in field}
            described["properties"][name] = {"anyOf": [*(types or [field]), _NULL], **own}
        return schema


class IgnoredNames:
    """Names of fields and parameters that callers send and nobody reads: each is logged once."""

    def __init__(self, *, most: int = MOST_NAMES) -> None:
        self._most = most
        self._seen: set[tuple[str, str]] = set()

    def note(self, names: Iterable[str], *, where: str) -> None:
        """Log those of `names` that were not seen before at this place; memory is bounded."""
        for name in names:
            one = (where, quoted(name))
            if one in self._seen or len(self._seen) >= self._most:
                continue
            self._seen.add(one)
            log.warning(
                "ignored: no such name is known here", extra={"fields": {"at": where, "name": one[1]}}
            )


def read_envelope(model: type[Model], envelope: Mapping[str, Any]) -> Model:
    """Return a checked request; raises Invalid with at most ten problems, each with its path."""
    spend(CHECKED_US * sum(len(value) for value in envelope.values() if isinstance(value, list)))
    try:
        return model.model_validate(envelope)
    except ValidationError as error:
        # A dict, for a field of several types reports the same remedy more than once.
        problems = list(dict.fromkeys(_problem(model, detail) for detail in _details(error)))
    more = len(problems) - MOST_PROBLEMS
    said = "; ".join(problems[:MOST_PROBLEMS])
    raise Invalid(said if more <= 0 else f"{said}; and {more} more")


def options_from_query(query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return options from the pairs of a query: `layers=all&heads=0,3&rows={"start":-4}&top_k=8`.

    A value is JSON, or a comma-separated list, or a word. Raises Malformed for a name given twice and
    for more than 64.
    """
    options: dict[str, Any] = {}
    for name, text in query:
        if len(options) == MOST_OPTIONS:
            raise Malformed(f"the query has more than {MOST_OPTIONS} names")
        if name in options:
            raise Malformed(f"the query has {quoted(name)} twice; separate the items of a list with commas")
        if name == "inputs":
            raise Invalid("inputs belong in the body, not in the query")
        options[name] = _query_value(name, text)
    return options


def require_few_options(query: bytes) -> None:
    """Raise Malformed for a query of more names than any request has, before it is taken apart."""
    if query.count(b"&") >= MOST_OPTIONS:
        raise Malformed(f"the query has more than {MOST_OPTIONS} names")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, or all of them."""
    names = list(known)
    # A long name is near nothing, and comparing it costs its length squared.
    close = get_close_matches(name[:64], names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"


def _query_value(name: str, text: str) -> Any:
    if text == "null":
        return None
    if text[:1] in ("[", "{"):
        return json_format.decode_value(text.encode(), what=quoted(name))
    spend(QUERY_US * text.count(","))
    parts = [part.strip() for part in text.split(",")]
    if name == "heads" and len(parts) == 1 and (text[:1].isalpha() or text[:1] == "_"):
        return text  # a set's name
    if len(parts) > 1 or name in LISTS:
        return [_query_word(name, part) for part in parts if part]
    return _query_word(name, text)


def _query_word(name: str, text: str) -> Any:
    """Return a number, true, false or null where the text is one, else the text itself."""
    if name in WORDS or not text or text[0] not in "-0123456789tfn":
        return text
    try:
        value = json_format.decode_value(text.encode())
    except Malformed:
        return text
    return value


def _details(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_input=False))


def _problem(model: type[BaseModel], detail: Mapping[str, Any]) -> str:
    place, kind, context = detail["loc"], detail["type"], detail.get("ctx") or {}
    owner = model
    for depth, name in enumerate(place, 1):
        if not isinstance(name, str):
            continue
        field = owner.model_fields.get(name)
        if field is None:
            break
        remedy = getattr(owner, "remedies", _UNIONS).get(name)
        if remedy and not _is_list(field.annotation):
            return f"{_path(place[:depth])} {remedy}"
        if name in _ITEMS and len(place) > depth:
            return f"{_path(place[: depth + 1])} {_ITEMS[name]}"
        owner = _object(field.annotation) or owner
    path = _path(place)
    if kind == "extra_forbidden":
        inputs = owner.model_fields.get("inputs")
        if inputs and (each := _object(inputs.annotation)) and place[-1] in each.model_fields:
            return f"{path} belongs to an input; give it within inputs"
        return f"{path} is no field here; {nearest(str(place[-1]), owner.model_fields)}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{path} {words} {context.get(key)}"
    if kind in ("too_short", "too_long"):
        least, most = context.get("min_length"), context.get("max_length")
        limit = f"at most {most}" if kind == "too_long" else f"at least {least}"
        return f"{path} has {context.get('actual_length')} items; give {limit}"
    return f"{path} {_TYPES.get(kind, 'is not valid')}"


def _path(place: Iterable[str | int]) -> str:
    path = ""
    for part in place:
        path = f"{path}[{part}]" if isinstance(part, int) else member(path, part)
    return path


def _is_list(annotation: Any) -> bool:
    """Whether a field is a list and nothing else: each of its problems has a remedy of its own."""
    hints = [hint for hint in get_args(annotation) if hint is not NoneType]
    return len(hints) == 1 and get_origin(hints[0]) is Annotated and get_origin(get_args(hints[0])[0]) is list


def _object(annotation: Any) -> type[BaseModel] | None:
    """Return the kind of object that a field is, or is a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for hint in get_args(annotation) if (found := _object(hint))), None)
