"""What the two clients can do, each as one flow: list models, attend, attend to the caller's own Q, K, V."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from heed_client.errors import InvalidReply, TooLarge
from heed_client.exchange import Call, Deadline, Flow, Reply, Retries, answer, json_of
from heed_client.results import Attended, ModelCard, Result
from heed_client.tensors import body_of, read, size_of

__all__ = ["Session", "attend", "model", "models"]

SAFETENSORS = "application/x-safetensors"
JSON = "application/json"
_SMALL_BYTES = 256 * 1024  # below it no server refuses a body; asking for its limit would cost a round trip
_MARGIN_BYTES = 4096
_MOST_INPUTS = 1024  # of one request
_LONGEST_DEADLINE_MS = 24 * 3600 * 1000


@dataclass(slots=True)
class Session:
    """What lasts from one call to the next: how to retry, the clock, and the limits servers have told."""

    retries: Retries
    clock: Callable[[], float]
    body_limits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some of the inputs, by their place in the whole, that travel in one request."""

    places: tuple[int, ...]
    as_json: bool


def models(session: Session, deadline: Deadline) -> Flow[list[ModelCard]]:
    """List what is served."""
    reply = yield from _get(session, "/v1/models", deadline)
    try:
        return [_card(page) for page in json_of(reply)["models"]]  # type: ignore[index]
    except (KeyError, TypeError) as error:
        raise InvalidReply("the reply is not a list of models") from error


def model(session: Session, name: str, deadline: Deadline) -> Flow[ModelCard]:
    """Describe one model, and remember its server's limit on bodies."""
    reply = yield from _get(session, f"/v1/models/{quote(name, safe='')}", deadline)
    try:
        card = _card(json_of(reply))
        session.body_limits[name] = int(card.details["limits"]["max_body_bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidReply("the reply does not describe a model") from error
    return card


def attend(
    session: Session,
    path: str,
    inputs: Sequence[Mapping[str, NDArray[Any]]],
    *,
    options: Mapping[str, Any],
    deadline: Deadline,
    strings: Sequence[Mapping[str, str]] = (),
    model_name: str | None = None,
) -> Flow[Result]:
    """Send inputs in as few requests as the server's limits allow, and put the answers in order.

    `inputs[i]` are the tensors of a sequence, `strings[i]` its text, if it has any. Text travels as
    JSON, everything else as safetensors; replies are safetensors.
    """
    strings = strings or [{}] * len(inputs)
    # A character is six bytes of JSON at most, a number seldom more than twenty-four.
    sizes = [
        6 * (sum(map(len, words.values())) + size_of(arrays)) if words else size_of(arrays)
        for arrays, words in zip(inputs, strings, strict=True)
    ]
    kinds = [[i for i, words in enumerate(strings) if bool(words) is as_json] for as_json in (True, False)]
    limit = None
    if model_name is not None and len(inputs) > 1 and sum(sizes) > _SMALL_BYTES:
        if model_name not in session.body_limits:
            yield from model(session, model_name, deadline)
        limit = session.body_limits[model_name] - _MARGIN_BYTES
    parts = [
        _Part(places=places, as_json=as_json)
        for as_json, kind in zip((True, False), kinds, strict=True)
        for places in _packed(kind, sizes, limit)
    ]
    done: list[Result] = []
    places: list[int] = []
    while parts:
        part = parts.pop(0)
        make = _request(path, part, inputs, strings, options)
        try:
            reply = yield from answer(make, retries=session.retries, deadline=deadline)
        except TooLarge:
            if len(part.places) == 1:
                raise
            half = len(part.places) // 2
            parts[:0] = [replace(part, places=part.places[:half]), replace(part, places=part.places[half:])]
            continue
        done.append(_result(reply, len(part.places)))
        places.extend(part.places)
    return _together(done, places)


def _get(session: Session, path: str, deadline: Deadline) -> Flow[Reply]:
    def make(left: float | None) -> Call:
        return Call(method="GET", path=path, headers={"accept": JSON}, timeout_seconds=left)

    return (yield from answer(make, retries=session.retries, deadline=deadline))


def _packed(places: Sequence[int], sizes: Sequence[int], limit: int | None) -> Iterator[tuple[int, ...]]:
    """Put inputs together, in order, as long as their bytes stay within the limit; one always goes."""
    part: list[int] = []
    room = 0
    for place in places:
        if part and (len(part) == _MOST_INPUTS or (limit is not None and sizes[place] > room)):
            yield tuple(part)
            part = []
        if not part:
            room = limit or 0
        part.append(place)
        room -= sizes[place]
    if part:
        yield tuple(part)


def _request(
    path: str,
    part: _Part,
    inputs: Sequence[Mapping[str, NDArray[Any]]],
    strings: Sequence[Mapping[str, str]],
    options: Mapping[str, Any],
) -> Callable[[float | None], Call]:
    """Return what makes the Call of one part, given the seconds left."""
    if part.as_json:
        body_inputs = [
            {**strings[i], **{name: array.tolist() for name, array in inputs[i].items()}} for i in part.places
        ]
        body = b""
    else:
        body_inputs = []
        body = body_of(
            {f"{n}.{name}": array for n, i in enumerate(part.places) for name, array in inputs[i].items()}
        )

    def make(left: float | None) -> Call:
        sent = (
            options
            if left is None
            else {**options, "deadline_ms": min(max(1, int(left * 1000)), _LONGEST_DEADLINE_MS)}
        )
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


def _parameter(value: object) -> str:
    """Return an option as a query parameter: a plain string, or JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _result(reply: Reply, count: int) -> Result:
    """Read one safetensors reply."""
    if not reply.headers.get("content-type", "").startswith(SAFETENSORS):
        raise InvalidReply("the reply is not safetensors, though nothing else was asked for")
    arrays, metadata = read(reply.body)
    tensors: list[dict[str, NDArray[Any]]] = [{} for _ in range(count)]
    try:
        for name, array in arrays.items():
            place, _, output = name.partition(".")
            tensors[int(place)][output] = array
        sequences = tuple(_attended(found, metadata, place) for place, found in enumerate(tensors))
        tokens = int(metadata.get("usage.tokens", 0))
    except (ValueError, IndexError, TypeError) as error:
        raise InvalidReply("the reply does not answer the inputs that were sent") from error
    return Result(
        sequences=sequences,
        model=metadata.get("model", ""),
        version=metadata.get("version", ""),
        tokens=tokens,
        timing=_timing(reply.headers.get("server-timing", "")),
    )


def _attended(tensors: dict[str, NDArray[Any]], metadata: Mapping[str, str], place: int) -> Attended:
    text = metadata.get(f"{place}.tokens")
    if text is None:
        return Attended(tensors=tensors)
    spans = metadata.get(f"{place}.spans")
    return Attended(
        tensors=tensors,
        tokens=tuple(json.loads(text)),
        offsets=_pairs(metadata.get(f"{place}.offsets", "[]")),
        special=tuple(json.loads(metadata.get(f"{place}.special", "[]"))),
        truncated=int(metadata.get(f"{place}.truncated", 0)),
        spans=None if spans is None else _pairs(spans),
    )


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in json.loads(text))


def _timing(header: str) -> dict[str, float]:
    """Return the seconds of each station of a Server-Timing header, which has milliseconds."""
    found: dict[str, float] = {}
    for part in header.split(","):
        name, _, duration = part.partition(";dur=")
        try:
            found[name.strip()] = float(duration) / 1000
        except ValueError:
            continue
    return found


def _together(results: Sequence[Result], places: Sequence[int]) -> Result:
    """Return one result of several, sequences in the order of `places`."""
    sequences = [sequence for result in results for sequence in result.sequences]
    order = np.argsort(np.array(places), kind="stable")
    stations = {station for result in results for station in result.timing}
    return Result(
        sequences=tuple(sequences[place] for place in order),
        model=results[0].model,
        version=results[0].version,
        tokens=sum(result.tokens for result in results),
        timing={name: sum(result.timing.get(name, 0.0) for result in results) for name in sorted(stations)},
        requests=len(results),
    )


def _card(page: Any) -> ModelCard:
    return ModelCard(
        name=page["name"],
        version=page["version"],
        layers=page["layers"],
        heads=page["heads"],
        d_model=page["d_model"],
        outputs=tuple(output["name"] for output in page["outputs"]),
        inputs=tuple(page["inputs"]),
        details=page,
    )
