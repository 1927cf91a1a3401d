"""What the two clients can do, each as one flow: list models, tokenize, attend, with a model or without."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from heed_client.errors import InvalidReply, TooLarge
from heed_client.exchange import Call, Deadline, Flow, Reply, Retries, json_of
from heed_client.options import Spans
from heed_client.parts import (
    JSON,
    MOST_INPUTS,
    SAFETENSORS,
    Sent,
    divided,
    parts_of,
    query_bytes,
    request_of,
)
from heed_client.results import Attended, ModelCard, Result, TokenizedText
from heed_client.servers.asking import answer
from heed_client.servers.choice import Servers
from heed_client.tensors import read

__all__ = ["Session", "attend", "model", "models", "tokenize"]

_SMALL_BYTES = 256 * 1024  # below it no server refuses a body; asking for its limit would cost a round trip
_MARGIN_BYTES = 4096


@dataclass(slots=True)
class Session:
    """What lasts from one call to the next: servers, how to retry, the clock, limits that were told."""

    servers: Servers
    retries: Retries
    clock: Callable[[], float]
    body_limits: dict[str, int] = field(default_factory=dict)


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


def tokenize(
    session: Session, model_name: str, texts: Sequence[str], *, options: Mapping[str, Any], deadline: Deadline
) -> Flow[list[TokenizedText]]:
    """Turn texts into tokens, so many a request as the server takes."""
    found: list[TokenizedText] = []
    for start in range(0, len(texts), MOST_INPUTS):
        asked = {"model": model_name, "input": list(texts[start : start + MOST_INPUTS]), **options}
        body = json.dumps(asked).encode()

        def make(left: float | None, body: bytes = body) -> Call:
            headers = {"accept": JSON, "content-type": JSON}
            return Call(method="POST", path="/v1/tokenize", headers=headers, body=body, timeout_seconds=left)

        reply = yield from answer(make, servers=session.servers, retries=session.retries, deadline=deadline)
        try:
            found += [_tokenized(one) for one in json_of(reply)["data"]]  # type: ignore[index]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidReply("the reply does not have the tokens of the texts") from error
    return found


def attend(
    session: Session,
    path: str,
    inputs: Sequence[Sent],
    *,
    options: Mapping[str, Any],
    deadline: Deadline,
    model_name: str | None = None,
) -> Flow[Result]:
    """Send inputs in as few requests as the server's limits allow, and put the answers in order.

    What has words travels as JSON, everything else as safetensors, with edits in its metadata; replies are
    safetensors.
    """
    limit = None
    if model_name is not None and len(inputs) > 1 and sum(one.size for one in inputs) > _SMALL_BYTES:
        if model_name not in session.body_limits:
            yield from model(session, model_name, deadline)
        limit = session.body_limits[model_name] - _MARGIN_BYTES
    parts = parts_of(inputs, limit=limit, options_bytes=query_bytes(options))
    done: list[Result] = []
    places: list[int] = []
    while parts:
        part = parts.pop(0)
        make = request_of(path, part, inputs, options)
        try:
            reply = yield from answer(
                make, servers=session.servers, retries=session.retries, deadline=deadline
            )
        except TooLarge:
            halves = divided(part)
            if halves is None:
                raise
            parts[:0] = halves
            continue
        done.append(_result(reply, len(part.places)))
        places.extend(part.places)
    return _together(done, places)


def _get(session: Session, path: str, deadline: Deadline) -> Flow[Reply]:
    def make(left: float | None) -> Call:
        return Call(method="GET", path=path, headers={"accept": JSON}, timeout_seconds=left)

    return (yield from answer(make, servers=session.servers, retries=session.retries, deadline=deadline))


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
    def told(name: str, otherwise: str = "null") -> Any:
        return json.loads(metadata.get(f"{place}.{name}", otherwise))

    given = f"{place}.tokens" in metadata
    return Attended(
        tensors=tensors,
        tokens=tuple(told("tokens")) if given else None,
        offsets=_pairs(told("offsets", "[]")) if given else None,
        special=tuple(told("special", "[]")) if given else None,
        truncated=int(told("truncated", "0")),
        spans=_ranges(told("spans")),
        next_tokens=told("next_tokens"),
        edited=bool(told("edited")),
    )


def _tokenized(told: Any) -> TokenizedText:
    return TokenizedText(
        ids=np.array(told["ids"], np.int64),
        tokens=tuple(told["tokens"]),
        offsets=_pairs(told["offsets"]),
        special=tuple(told["special"]),
        truncated=told.get("truncated", 0),
    )


def _ranges(found: Any) -> Spans | None:
    """Return spans as they were asked for: a list of ranges, or ranges by name."""
    if found is None:
        return None
    if isinstance(found, dict):
        return {name: (first, last) for name, (first, last) in found.items()}
    return _pairs(found)


def _pairs(found: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in found)


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
