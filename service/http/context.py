"""What every route is given: the runtime, the engine, the metrics and the limits, as plain values.

`service.app.create_app` makes one Context and hands it to each `router(context)`; nothing under
`service.http` reads a setting.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from models.errors import UnknownModel
from models.protocol import ModelCard, Models
from service.batching.work_queue import WorkQueue
from service.errors import Invalid, NotFound
from service.http.envelope import IgnoredNames
from service.http.texts.places import TextPlaces
from service.http.turns import Turns

TEXT_BYTES_A_TOKEN = 64  # texts may be cut: of most no more is left than of these
MOST_NAMED = 8  # models, in a message
NAME_ONE = "name one of them in `model`, or have the server started with DEFAULT_MODEL"


class WireMetrics(Protocol):
    """The part of `service.metrics.registry.Metrics` that the routes call."""

    def decoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        """Time the reading of one body."""
        ...

    def encoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        """Time the writing of one reply."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Bounds of one request that the routes keep; those of memory and of the queue are the engine's.

    `deadline_ms` is both the default and the longest deadline. `truncate`: texts are cut where a request does
    not say. The numbers of tokens of one sequence and of one request are the engine's; known here so
    that no text is read for nothing. Those of a batch and of requests are, too; they are only told.
    """

    deadline_ms: int = 30_000
    truncate: bool = False
    max_sequence_tokens: int | None = None
    max_queued_tokens: int | None = None
    max_queued_requests: int = 512
    max_batch_tokens: int = 16_384

    @property
    def text_bytes(self) -> int | None:
        """The bytes that all texts of a request may have: so many for each token that it may have."""
        return None if self.max_queued_tokens is None else TEXT_BYTES_A_TOKEN * self.max_queued_tokens


@dataclass(frozen=True, slots=True)
class Need:
    """What a route needs of a model that nobody names; `said` ends the sentence "models are served …"."""

    said: str
    met: Callable[[ModelCard], bool]


ANY_MODEL = Need("", lambda _: True)
TEXTS = Need(" that take text", lambda card: "text" in card.inputs)
EMBEDDINGS = Need(" that have embeddings", lambda card: "pooled" in card.outputs and "text" in card.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One server's parts. `clock` is the one the engine reads deadlines by, in seconds.

    `default_model` answers requests that name no model.
    """

    runtime: Models
    engine: WorkQueue
    metrics: WireMetrics
    limits: RequestLimits = field(default_factory=RequestLimits)
    default_model: str | None = None
    clock: Callable[[], float] = time.monotonic
    turns: Turns = field(default_factory=Turns)
    places: TextPlaces = field(default_factory=TextPlaces)
    ignored: IgnoredNames = field(default_factory=IgnoredNames)

    def model(self, name: str | None, need: Need, *, remedy: str = NAME_ONE) -> ModelCard:
        """Return the model that is named, else the default, else the only one served that meets `need`.

        A default that is not served is missed, and no other stands in for it: vectors of two models do not
        fit each other. Whether the default meets `need` is for the route to say, as of one that is named.
        `remedy`: what the caller can do. Raises UnknownModel, NotFound, Invalid.
        """
        if name is not None:
            return self.runtime.card(name)
        if self.default_model is not None:
            try:
                return self.runtime.card(self.default_model)
            except UnknownModel:
                other = ", or name one that `GET /v1/models` lists" if remedy == NAME_ONE else ""
                raise NotFound(
                    f"no model is named, and DEFAULT_MODEL, {self.default_model}, is not served now; have it "
                    f"loaded again{other}",
                    code="unknown_model",
                ) from None
        able = [card for card in self.runtime.cards() if need.met(card)]
        if len(able) == 1:
            return able[0]
        if not able:
            raise Invalid(f"no model is named, and no models are served{need.said}; have one loaded")
        names = ", ".join(card.name for card in able[:MOST_NAMED])
        more = f" and {len(able) - MOST_NAMED} more" if len(able) > MOST_NAMED else ""
        raise Invalid(f"no model is named, and {len(able)} are served{need.said}: {names}{more}; {remedy}")


def missing_default(name: str | None, runtime: Models) -> str:
    """Return why the default model, if there is to be one, cannot answer; "" where it can."""
    served = [card.name for card in runtime.cards()]
    if name is None or name in served:
        return ""
    reason = next((row["reason"] for row in runtime.index() if row["name"] == name and row["reason"]), "")
    return (
        f"DEFAULT_MODEL is {name}, which is not served{f': {reason}' if reason else ''}; served: "
        f"{', '.join(served) or 'none'}. Name one of these, or have {name} served, too"
    )
