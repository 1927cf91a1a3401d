"""Whom to ask: the server with the fewest outstanding requests among those that do not rest.

A server that could not be reached, broke off or said that it is not ready rests, twice as long each time, and
is then tried with one request; it is asked earlier only where no other is left.
"""

import random
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Server", "Servers", "Turn", "read_urls"]

FIRST_REST_SECONDS = 0.25
LONGEST_REST_SECONDS = 15.0
PROBE_CONNECT_SECONDS = 1.0  # what a request is given to connect to a server that has just rested
_NEVER = float("-inf")


@dataclass(slots=True, eq=False)
class Server:
    """One address, what is under way there, and how it has done; `name` is the URL without a password."""

    url: str
    name: str
    outstanding: int = 0
    last_turn: int = 0
    failures: int = 0  # in a row
    failed_turn: int = 0  # the last that had begun when it failed
    rests_until: float = _NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request at one server, the client's `number`th; `probing` one that has just rested."""

    server: Server
    number: int
    probing: bool


class Servers:
    """The servers of one client, which may be used by several threads.

    `shuffle` changes their order, or every client's first request would go to the first.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        clock: Callable[[], float],
        *,
        shuffle: Callable[[list[str]], None] = random.shuffle,
    ) -> None:
        found = read_urls(urls)
        shuffle(found)
        self._servers = [Server(url, _named(url)) for url in found]
        self._clock = clock
        self._lock = threading.Lock()
        self._turns = 0

    def __len__(self) -> int:
        return len(self._servers)

    @property
    def urls(self) -> list[str]:
        """Every address."""
        return [server.url for server in self._servers]

    def take(self, tried: Collection[Server] = ()) -> Turn | None:
        """Count a request in at a server besides those that were tried; None where there is no other."""
        now = self._clock()
        with self._lock:
            left = [server for server in self._servers if server not in tried]
            if not left:
                return None
            awake = [server for server in left if server.rests_until <= now]
            if awake:
                server = min(awake, key=lambda one: (one.outstanding, one.last_turn))
            else:
                server = min(left, key=lambda one: one.rests_until)
            self._turns += 1
            server.last_turn = self._turns
            server.outstanding += 1
            if server.failures:  # others wait until this request has found out
                server.rests_until = max(server.rests_until, now + _rest_seconds(server.failures))
            return Turn(server=server, number=self._turns, probing=server.failures > 0)

    def end(self, turn: Turn, *, well: bool | None, rest_seconds: float | None = None) -> None:
        """Count a request out. `well` says whether the server may be asked again at once; None: no news.

        Of requests that overlap, the first failure counts and the others tell nothing new. `rest_seconds`
        is what the server itself asked for.
        """
        now = self._clock()
        server = turn.server
        with self._lock:
            server.outstanding -= 1
            if well is None or turn.number <= server.failed_turn:
                return
            if well:
                server.failures, server.rests_until = 0, _NEVER
                return
            server.failures += 1
            server.failed_turn = self._turns
            rest = max(_rest_seconds(server.failures), rest_seconds or 0.0)
            server.rests_until = now + min(rest, LONGEST_REST_SECONDS)


def read_urls(urls: str | Sequence[str]) -> list[str]:
    """Return addresses, each once, of one text with commas or of several; ValueError for what is none."""
    given = urls.split(",") if isinstance(urls, str) else list(urls)
    found = list(dict.fromkeys(url.strip().rstrip("/") for url in given))
    for url in found:
        if not urlsplit(url).scheme or not urlsplit(url).netloc:
            raise ValueError(f"{url[:64]!r} is no server's URL; give http://HOST:PORT, several with commas")
    if not found:
        raise ValueError("no server is named; give a URL as http://HOST:PORT, or several")
    return found


def _named(url: str) -> str:
    return url.replace(urlsplit(url).netloc, urlsplit(url).netloc.rpartition("@")[2])


def _rest_seconds(failures: int) -> float:
    seconds: float = FIRST_REST_SECONDS * 2 ** min(failures - 1, 16)
    return min(seconds, LONGEST_REST_SECONDS)
