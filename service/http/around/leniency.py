"""What peers' clients send that means nothing here: nulls, and names that are not ours.

Beside the second half of decoding. Clients write every option they know, null where it is not set, and
OpenAI's own service takes no notice; a null is therefore absent in every optional field of every route.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.wire.names import quoted

__all__ = ["IgnoredNames", "NullIsAbsent"]

MOST_NAMES = 256  # remembered; beyond them nothing more is logged

_BESIDE = ("title", "description", "default")  # of a schema, said of the field and not of one of its types
_NULL = {"type": "null"}

log = logging.getLogger(__name__)


class NullIsAbsent(BaseModel):
    """A part of a request in which null stands for a field that is not given, where it need not be."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or all(value is not None for value in given.values()):
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
