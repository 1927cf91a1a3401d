"""What is changed inside attention before the rest of the model sees it: one input's edits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heed_client.heads import Heads, heads_as_json

__all__ = ["Edit", "Places", "places_as_json"]

Verb: TypeAlias = Literal["add", "block", "pattern", "set", "from", "scale"]
Pattern: TypeAlias = Literal["previous", "self", "first", "uniform"]
Places: TypeAlias = str | slice | Sequence[int | str | tuple[int, int]] | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit, made by the method that is called as its verb; where it applies is said by what is given.

    `heads`: numbers, of `layers` (default: of every layer); (layer, head) pairs; a HeadSet; the name of a
    set. `queries` and `keys`: positions, (start, end) ranges, names of the input's spans, a
    slice, or {"outside": …} for all others; default all.
    """

    edit: Verb
    heads: Heads | None = None
    layers: int | Sequence[int] | Literal["all"] | None = None
    queries: Places | None = None
    keys: Places | None = None
    value: float | Pattern | ArrayLike | None = None
    input: int | None = None

    @classmethod
    def scale(cls, value: float, **where: Any) -> Self:
        """Multiply what heads put out, before W_O; 0 silences them."""
        return cls(edit="scale", value=value, **where)

    @classmethod
    def block(cls, **where: Any) -> Self:
        """Let `queries` not attend to `keys`: their weights are 0, and the others share."""
        return cls(edit="block", **where)

    @classmethod
    def add(cls, value: float, **where: Any) -> Self:
        """Add to the scores between `queries` and `keys`: log α multiplies weights by α before they share."""
        return cls(edit="add", value=value, **where)

    @classmethod
    def pattern(cls, value: Pattern | ArrayLike, **where: Any) -> Self:
        """Put weights in place of the model's: a name, or numbers [T', S] or [P, T', S]."""
        return cls(edit="pattern", value=value, **where)

    @classmethod
    def set(cls, value: ArrayLike, **where: Any) -> Self:
        """Put vectors [P, T', d_v] in place of what heads put out, before W_O."""
        return cls(edit="set", value=value, **where)

    @classmethod
    def from_input(cls, input: int, **where: Any) -> Self:  # noqa: A002  the server's name
        """Take what the same heads put out at the same positions of another input of the call."""
        return cls(edit="from", input=input, **where)

    def as_json(self, *, matrix: bool = True) -> dict[str, Any]:
        """Return it as the server reads it; without its matrix, where that is sent beside it."""
        found: dict[str, Any] = {"edit": self.edit}
        if self.heads is not None:
            found["heads"] = heads_as_json(self.heads)
        if self.layers is not None:
            plain = isinstance(self.layers, str | int)
            found["layers"] = self.layers if plain else [int(layer) for layer in self.layers]  # type: ignore[union-attr]
        for name in ("queries", "keys"):
            places = getattr(self, name)
            if places is not None:
                found[name] = places_as_json(places)
        array = self.matrix()
        if array is None and self.value is not None:
            found["value"] = self.value if isinstance(self.value, str) else float(self.value)  # type: ignore[arg-type]
        elif array is not None and matrix:
            found["value"] = array.tolist()
        if self.input is not None:
            found["input"] = self.input
        return found

    def matrix(self) -> NDArray[np.float32] | None:
        """Return the numbers of a value that has axes, C-contiguous."""
        if self.value is None or isinstance(self.value, str):
            return None
        array = np.asarray(self.value, dtype=np.float32)
        return None if array.ndim == 0 else np.ascontiguousarray(array)


def places_as_json(places: Places) -> Any:
    """Return positions as the server reads them; ValueError for a slice with a step."""
    if isinstance(places, slice):
        if places.step not in (None, 1):
            raise ValueError("positions as a slice may have no step; give a list of them")
        return {"start": places.start or 0, "stop": places.stop}
    if isinstance(places, str):
        return places
    if isinstance(places, Mapping):
        return {name: places_as_json(value) for name, value in places.items()}
    return [
        one if isinstance(one, str) else [int(one[0]), int(one[1])] if isinstance(one, Sequence) else int(one)
        for one in places
    ]
