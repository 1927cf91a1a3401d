"""How the inputs of one call are cut into requests: within a server's limits, and what is linked together."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from heed_client.exchange import Call
from heed_client.tensors import body_of, size_of

__all__ = ["JSON", "SAFETENSORS", "Part", "Sent", "divided", "parts_of", "request_of"]

SAFETENSORS = "application/x-safetensors"
JSON = "application/json"
MOST_INPUTS = 1024  # of one request
_LONGEST_DEADLINE_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One input on its way: tensors by name, what only JSON carries, and the inputs its edits take from."""

    tensors: Mapping[str, NDArray[Any]]
    spoken: Mapping[str, Any]
    sources: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        """About how many bytes it takes; a number of JSON is seldom more than twenty-four."""
        if not self.spoken:
            return size_of(self.tensors)
        texts = (value for value in self.spoken.values() if isinstance(value, str))
        rest = {name: value for name, value in self.spoken.items() if not isinstance(value, str)}
        spoken = 6 * sum(map(len, texts)) + (len(json.dumps(rest)) if rest else 0)
        return spoken + 6 * size_of(self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of the inputs that travel in one request: groups of places in the whole, each of linked inputs."""

    groups: tuple[tuple[int, ...], ...]
    as_json: bool

    @property
    def places(self) -> tuple[int, ...]:
        """The places of its inputs in the whole, in the order in which they travel."""
        return tuple(place for group in self.groups for place in group)


def parts_of(inputs: Sequence[Sent], *, limit: int | None) -> list[Part]:
    """Return the requests to send, in JSON where any of a group is spoken; `limit` of bytes, None: any."""
    groups = _linked([one.sources for one in inputs])
    found = []
    for as_json in (True, False):
        kind = [group for group in groups if any(inputs[at].spoken for at in group) is as_json]
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
            body_inputs.append({**_renumbered(one.spoken, new), **lists})
    else:
        body = body_of(
            {f"{new[at]}.{name}": array for at in part.places for name, array in inputs[at].tensors.items()}
        )

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
    room, count = 0, 0
    for group in groups:
        size = sum(inputs[place].size for place in group)
        if part and (count + len(group) > MOST_INPUTS or (limit is not None and size > room)):
            yield tuple(part)
            part = []
        if not part:
            room, count = limit or 0, 0
        part.append(group)
        room -= size
        count += len(group)
    if part:
        yield tuple(part)


def _renumbered(spoken: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """Return what JSON says of an input whose edits name inputs by their places in this request."""
    if "edits" not in spoken:
        return dict(spoken)
    edits = [{**edit, "input": new[edit["input"]]} if "input" in edit else edit for edit in spoken["edits"]]
    return {**spoken, "edits": edits}


def _parameter(value: object) -> str:
    """Return an option as a query parameter: a plain string, or JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
