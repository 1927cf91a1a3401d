"""How the inputs of one call are cut into requests: within a server's limits, and what is linked together."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from numpy.typing import NDArray

from heed_client.edits import Edit
from heed_client.exchange import Call
from heed_client.tensors import body_of, size_of

__all__ = ["JSON", "SAFETENSORS", "Part", "Sent", "divided", "parts_of", "query_bytes", "request_of"]

SAFETENSORS = "application/x-safetensors"
JSON = "application/json"
MOST_INPUTS = 1024  # of one request
_ENTRY_BYTES = 128  # of a tensor in the head of a body of them
_MOST_HEAD_BYTES = 800_000  # of edits in it; the server's limit is 1 MiB
_MOST_QUERY_BYTES = 24_000  # the server's limit on the head of a request is 32 KiB
_LONGEST_DEADLINE_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One input on its way: tensors by name, what only JSON carries, and its edits."""

    tensors: Mapping[str, NDArray[Any]]
    spoken: Mapping[str, Any]
    edits: tuple[Edit, ...] = ()

    @property
    def sources(self) -> frozenset[int]:
        """The inputs of the call that its edits take from."""
        return frozenset(edit.input for edit in self.edits if edit.input is not None)

    @property
    def head_bytes(self) -> int:
        """About how many bytes it takes of the head of a body of tensors."""
        edits = [edit.as_json(matrix=False) for edit in self.edits]
        return 2 * len(json.dumps(edits)) + _ENTRY_BYTES * (len(self.tensors) + len(edits))

    @property
    def size(self) -> int:
        """About how many bytes it takes; a number of JSON is seldom more than twenty-four."""
        matrices = sum(array.nbytes for array in self.matrices("").values())
        if not self.spoken:
            return size_of(self.tensors) + (self.head_bytes + matrices if self.edits else 0)
        texts = (value for value in self.spoken.values() if isinstance(value, str))
        rest = {name: value for name, value in self.spoken.items() if not isinstance(value, str)}
        spoken = 6 * sum(map(len, texts)) + (len(json.dumps(rest)) if rest else 0)
        return spoken + 6 * (size_of(self.tensors) + matrices) + (self.head_bytes if self.edits else 0)

    def matrices(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the matrices of its edits by the names of their tensors."""
        found = ((f"{prefix}edits.{number}", edit.matrix()) for number, edit in enumerate(self.edits))
        return {name: array for name, array in found if array is not None}

    def renumbered(self, new: Mapping[int, int], *, matrix: bool) -> list[dict[str, Any]]:
        """Return its edits as JSON, the inputs that they name by their places in a request."""
        edits = [edit.as_json(matrix=matrix) for edit in self.edits]
        return [{**edit, "input": new[edit["input"]]} if "input" in edit else edit for edit in edits]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of the inputs that travel in one request: groups of places in the whole, each of linked inputs."""

    groups: tuple[tuple[int, ...], ...]
    as_json: bool

    @property
    def places(self) -> tuple[int, ...]:
        """The places of its inputs in the whole, in the order in which they travel."""
        return tuple(place for group in self.groups for place in group)


def parts_of(inputs: Sequence[Sent], *, limit: int | None, options_bytes: int = 0) -> list[Part]:
    """Return the requests to send; `limit` of bytes, None: any.

    They are tensors, but where any of a group is spoken, or more is said beside them than a head may hold.
    """
    groups = _linked([one.sources for one in inputs])
    found = []
    for as_json in (True, False):
        kind = [group for group in groups if _as_json([inputs[at] for at in group], options_bytes) is as_json]
        found += [Part(groups=part, as_json=as_json) for part in _packed(kind, inputs, limit)]
    return found


def divided(part: Part) -> list[Part] | None:
    """Return two halves of a part, None where it cannot be divided."""
    half = len(part.groups) // 2
    if half == 0:
        return None
    return [Part(groups=groups, as_json=part.as_json) for groups in (part.groups[:half], part.groups[half:])]


def request_of(
    path: str, part: Part, inputs: Sequence[Sent], options: Mapping[str, Any]
) -> Callable[[float | None], Call]:
    """Return what makes the Call of one part, given the seconds left."""
    new = {place: number for number, place in enumerate(part.places)}
    body, body_inputs = b"", []
    if part.as_json:
        for place in part.places:
            one = inputs[place]
            lists = {name: array.tolist() for name, array in one.tensors.items()}
            edits = {"edits": one.renumbered(new, matrix=True)} if one.edits else {}
            body_inputs.append({**one.spoken, **lists, **edits})
    else:
        body = _tensors(inputs, new)

    def make(left: float | None) -> Call:
        sent = dict(options)
        if left is not None:
            sent["deadline_ms"] = min(max(1, int(left * 1000)), _LONGEST_DEADLINE_MS)
        if part.as_json:
            content, params, kind = json.dumps({"inputs": body_inputs, **sent}).encode(), {}, JSON
        else:
            content, kind = body, SAFETENSORS
            params = {name: _parameter(value) for name, value in sent.items()}
        headers = {"content-type": kind, "accept": SAFETENSORS}
        return Call(
            method="POST", path=path, params=params, headers=headers, body=content, timeout_seconds=left
        )

    return make


def query_bytes(options: Mapping[str, Any]) -> int:
    """Return how many bytes options are in a query."""
    return len(urlencode({name: _parameter(value) for name, value in options.items()}))


def _as_json(group: Sequence[Sent], options_bytes: int) -> bool:
    """Whether a group of inputs travels as JSON."""
    if options_bytes > _MOST_QUERY_BYTES or any(one.spoken for one in group):
        return True
    return any(one.edits for one in group) and sum(one.head_bytes for one in group) > _MOST_HEAD_BYTES


def _tensors(inputs: Sequence[Sent], new: Mapping[int, int]) -> bytes:
    """Return a body of tensors: of inputs at their new places, and of their edits, which are beside them."""
    arrays: dict[str, NDArray[Any]] = {}
    edits: dict[str, list[dict[str, Any]]] = {}
    for at, number in new.items():
        one = inputs[at]
        arrays |= {f"{number}.{name}": array for name, array in one.tensors.items()}
        if one.edits:
            arrays |= one.matrices(f"{number}.")
            edits[str(number)] = one.renumbered(new, matrix=False)
    return body_of(arrays, metadata={"edits": json.dumps(edits)} if edits else None)


def _linked(sources: Sequence[frozenset[int]]) -> list[tuple[int, ...]]:
    """Return the places in groups: inputs whose edits take from each other are of one; all in order."""
    group = list(range(len(sources)))
    for place, taken in enumerate(sources):
        for source in taken:
            if not 0 <= source < len(sources):
                raise ValueError(
                    f"an edit of input {place} takes from input {source}; there are {len(sources)}, from 0"
                )
            old, kept = sorted((group[place], group[source]), reverse=True)
            group = [kept if one == old else one for one in group]
    members: dict[int, list[int]] = {}
    for place, first in enumerate(group):
        members.setdefault(first, []).append(place)
    return [tuple(places) for places in members.values()]


def _packed(
    groups: Sequence[tuple[int, ...]], inputs: Sequence[Sent], limit: int | None
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Put groups together, in order, as long as their bytes stay within the limit; one always goes."""
    part: list[tuple[int, ...]] = []
    room, head, count = 0, 0, 0
    for group in groups:
        size = sum(inputs[place].size for place in group)
        in_head = sum(inputs[place].head_bytes for place in group)
        full = count + len(group) > MOST_INPUTS or head + in_head > _MOST_HEAD_BYTES
        if part and (full or (limit is not None and size > room)):
            yield tuple(part)
            part = []
        if not part:
            room, head, count = limit or 0, 0, 0
        part.append(group)
        room -= size
        head += in_head
        count += len(group)
    if part:
        yield tuple(part)


def _parameter(value: object) -> str:
    """Return an option as a query parameter: a plain string, or JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
