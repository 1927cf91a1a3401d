"""How much a piece of work may do where it is done: what is too much for the event loop goes to a thread.

Bytes do not tell: eighty thousand of them are four thousand inputs, or one. So whoever is about to do
something many times says how often, before it does it, where the number is known. On the event loop an
allowance stands against that (`service.http.turns`); on a thread there is none, and nothing is counted.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

_own = threading.local()

Made = TypeVar("Made")


class TooMuch(BaseException):
    """More is to be done than is allowed here; nothing is wrong, and nothing that was done is kept.

    No Exception, so that it is taken for nobody's mistake on its way.
    """


def within(units: float, work: Callable[[], Made]) -> Made:
    """Do work that may declare so many microseconds on this thread; raise what it raises, or TooMuch."""
    _own.left = units
    try:
        return work()
    finally:
        _own.left = None


def spend(units: float) -> None:
    """Declare work of about so many microseconds; raise TooMuch where it is not allowed."""
    left = getattr(_own, "left", None)
    if left is None:
        return
    if units > left:
        raise TooMuch
    _own.left = left - units
