"""Texts of a request into tokens before anything else is made of it, where that takes long.

Short texts are tokenized on the way, by `resolve`. Long ones are read on threads, a few texts at a time, so
that requests take turns, and none goes on after its deadline, when its caller has left, or when it has more
tokens than any request may.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from models.protocol import Text
from service.errors import DeadlineExceeded, TooLarge
from service.http.around.host import DEPARTURE, Departure
from service.http.context import Context
from service.http.schemas import AttendRequest
from service.http.selection import select_attend
from service.http.texts.reading import KIB, TEXT_MS, Reading, is_text, read_text
from service.wire.effort import spend

SLICE_MS = 20.0  # of the work of one request before another one's turn
Made = TypeVar("Made")
INPUT_US = 2.0  # what one takes to be looked at, in microseconds


async def read_ahead(
    request: Request, context: Context, asked: AttendRequest, how: Reading, *, deadline: float
) -> list[Text | None]:
    """Return the texts of a request as tokens, None for inputs that are none.

    `deadline` in context.clock() seconds. Raises Invalid, TooLarge, DeadlineExceeded, ClientDisconnect.
    """
    texts = await context.turns.run(partial(_are_texts, asked, how, context), ms=0.0)

    def read(at: int) -> Text | None:
        return read_text(asked.inputs[at], at, how, context.runtime) if texts[at] else None

    tokens = 0

    def check(found: Sequence[Text | None]) -> None:
        nonlocal tokens
        tokens += sum(len(text.ids) for text in found if text is not None)
        require_few_together(tokens, len(asked.inputs), context.limits.max_queued_tokens)

    costs = [
        TEXT_MS + how.card.text_ms * (len(one.text or "") + len(one.pair or "")) / KIB for one in asked.inputs
    ]
    return await in_slices(request, context, costs, read, model=how.card.name, deadline=deadline, check=check)


async def in_slices(
    request: Request,
    context: Context,
    costs_ms: Sequence[float],
    make: Callable[[int], Made],
    *,
    model: str,
    deadline: float,
    check: Callable[[Sequence[Made]], None],
) -> list[Made]:
    """Return what is made of each place, a few at a time on threads; `check` is told what each slice made.

    Raises what `make` and `check` raise, DeadlineExceeded, ClientDisconnect.
    """
    until = _Until(context.clock, deadline)
    departure: Departure = request.scope.get(DEPARTURE) or Departure()
    departure.listen(until.leave)

    def make_some(places: range) -> list[Made]:
        made = []
        for at in places:
            until.check()
            made.append(make(at))
        return made

    done: list[Made] = []
    try:
        for places in _slices(costs_ms):
            left = deadline - context.clock()
            made = await context.places.run(partial(make_some, places), model=model, seconds=left)
            check(made)
            done += made
    except TimeoutError:
        raise until.expired() from None
    finally:
        departure.forget()
        until.over = True
    return done


def _are_texts(asked: AttendRequest, how: Reading, context: Context) -> list[bool]:
    """Return of each input whether it is a text; what is wrong without a look at the texts is said first."""
    spend(INPUT_US * len(asked.inputs))
    size = sum(len(one.text or "") + len(one.pair or "") for one in asked.inputs)
    require_few_characters(size, len(asked.inputs), context.limits.text_bytes)
    select_attend(asked, how.card)
    return [is_text(given, f"{how.field}[{at}]", how.card) for at, given in enumerate(asked.inputs)]


def _slices(costs_ms: Sequence[float]) -> Iterator[range]:
    """Return places of inputs, as many as are read in one turn at a time."""
    start, ms = 0, 0.0
    for at, cost in enumerate(costs_ms):
        ms += cost
        if ms >= SLICE_MS:
            yield range(start, at + 1)
            start, ms = at + 1, 0.0
    if start < len(costs_ms):
        yield range(start, len(costs_ms))


def require_few_characters(size: int, inputs: int, most: int | None) -> None:
    """Raise TooLarge for more bytes of text than one request may have; characters are no more than these."""
    if most is not None and size > most:
        raise TooLarge(
            f"the request's {inputs} inputs have {size} characters of text together, the limit is "
            f"{most}; send fewer or shorter ones at a time",
            code="sequence_too_long",
        )


def require_few_together(tokens: int, inputs: int, most: int | None) -> None:
    """Raise TooLarge for more tokens than one request may have, before the rest of its texts is read."""
    if most is not None and tokens > most:
        raise TooLarge(
            f"the request's {inputs} inputs have over {tokens} tokens together, the limit is "
            f"{most}; send fewer or shorter ones",
            code="sequence_too_long",
        )


class _Until:
    """How long texts of a request are read: until its deadline has passed, or its caller has left."""

    def __init__(self, clock: Callable[[], float], deadline: float) -> None:
        self._clock, self._deadline = clock, deadline
        self._left = False
        self.over = False  # nobody waits any more, for whatever reason

    def leave(self) -> None:
        """Note that the caller has left."""
        self._left = True

    def check(self) -> None:
        """Raise ClientDisconnect, DeadlineExceeded where it is over; on any thread."""
        if self._left or self.over:
            raise ClientDisconnect
        if self._clock() >= self._deadline:
            raise self.expired()

    def expired(self) -> DeadlineExceeded:
        """Return the refusal of a request whose deadline has passed."""
        return DeadlineExceeded(
            "the deadline passed while the request's texts were tokenized; allow more time, or send less"
        )
