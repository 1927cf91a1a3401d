"""One `model_type`: a table from paths of the specification to constants or readers of the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.folders.naming import Naming

Table = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One model_type: how configuration and tensors are read.

    `holds`: values that fields must have where stated. `idle`: fields that change nothing in this family,
    beside those that change nothing in any.
    """

    table: Table
    naming: Naming
    holds: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()
