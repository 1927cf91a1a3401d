"""How much one caller may ask: requests a second, tokens a second, requests at a time.

Pure ASGI, behind the keys: a caller is a key, or an address where no keys are set, never what a header says
of one. Requests and those at a time are counted before the body is read; tokens once they are known, which is
after decoding. Token buckets (Turner, "New directions in communications", IEEE Communications 24(10), 1986),
of a second's worth each: a request that holds more than that is let in by a full bucket and leaves a debt, so
that the rate holds and nothing is impossible. Header fields: draft-ietf-httpapi-ratelimit-headers-10.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import islice
from math import ceil

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded
from service.http.around.auth import is_open
from service.http.errors import send_error

QUOTA = "heed.quota"  # in the scope of a request whose caller has one
MOST_CALLERS = 10_000  # remembered; of more addresses the one that was not heard of for longest is forgotten
LOOKED_AT = 16  # to find one without a request under way
SHORTEST_RETRY_SECONDS = 1.0
NETWORK_BITS = 64  # of an IPv6 address: who has one has all of its network


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """What each caller may ask; 0 is no limit."""

    requests_per_second: int = 0
    tokens_per_second: int = 0
    concurrency: int = 0

    @property
    def any(self) -> bool:
        """Whether there is any limit."""
        return any((self.requests_per_second, self.tokens_per_second, self.concurrency))

    @property
    def policy(self) -> bytes:
        """The RateLimit-Policy field."""
        policies = []
        if self.requests_per_second:
            policies.append(f'"requests";q={self.requests_per_second};w=1')
        if self.tokens_per_second:
            policies.append(f'"tokens";q={self.tokens_per_second};w=1;qu="tokens"')
        if self.concurrency:
            policies.append(f'"concurrency";q={self.concurrency};qu="concurrent-requests"')
        return ", ".join(policies).encode()


class _Bucket:
    """What may still be taken, refilled at `rate` a second up to a second's worth; below 0 it is a debt."""

    __slots__ = ("_at", "_held", "rate")

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._held = float(rate)
        self._at = now

    def held(self, now: float) -> float:
        self._held = min(float(self.rate), self._held + (now - self._at) * self.rate)
        self._at = now
        return self._held

    def seconds_until(self, amount: float, now: float) -> float:
        """Return after how long so much, or a full bucket, may be taken; 0: now."""
        missing = min(amount, self.rate) - self.held(now)
        return max(0.0, missing / self.rate)

    def take(self, amount: float) -> None:
        self._held -= amount

    def said(self, name: str, now: float) -> str:
        held = self.held(now)
        return f'"{name}";r={max(0, int(held))};t={ceil((self.rate - held) / self.rate)}'


class Quota:
    """What one caller has left; on the event loop."""

    __slots__ = ("_clock", "_limits", "_requests", "_tokens", "_who", "running")

    def __init__(self, limits: QuotaLimits, *, who: str, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._who = who
        self._clock = clock
        self._requests = _Bucket(limits.requests_per_second, clock())
        self._tokens = _Bucket(limits.tokens_per_second, clock())
        self.running = 0

    def begin(self) -> None:
        """Count one request, before anything of it is read; raise Overloaded."""
        limits = self._limits
        if limits.concurrency and self.running >= limits.concurrency:
            raise self._refusal(
                f"has {self.running} requests under way, the limit is {limits.concurrency} (KEY_CONCURRENCY)",
                SHORTEST_RETRY_SECONDS,
            )
        if limits.tokens_per_second:  # a debt, or nothing left: refused before it is decoded
            self.require_tokens(1)
        if limits.requests_per_second:  # last, for only this one is taken
            seconds = self._requests.seconds_until(1, self._clock())
            if seconds:
                rate = limits.requests_per_second
                raise self._refusal(f"may send {rate} requests a second (KEY_REQUESTS_PER_SECOND)", seconds)
            self._requests.take(1)
        self.running += 1

    def require_tokens(self, tokens: int) -> None:
        """Raise Overloaded where so many, or a second's worth, may not be taken yet."""
        rate = self._limits.tokens_per_second
        seconds = self._tokens.seconds_until(tokens, self._clock()) if rate else 0.0
        if seconds:
            raise self._refusal(f"may send {rate} tokens a second (KEY_TOKENS_PER_SECOND)", seconds)

    def take_tokens(self, tokens: int) -> None:
        """Charge an admitted request."""
        self._tokens.take(tokens)

    def said(self) -> bytes:
        """Return the RateLimit field."""
        limits, now = self._limits, self._clock()
        left = []
        if limits.requests_per_second:
            left.append(self._requests.said("requests", now))
        if limits.tokens_per_second:
            left.append(self._tokens.said("tokens", now))
        if limits.concurrency:
            left.append(f'"concurrency";r={max(0, limits.concurrency - self.running)}')
        return ", ".join(left).encode()

    def _refusal(self, what: str, seconds: float) -> Overloaded:
        whole = ceil(seconds)
        return Overloaded(f"{self._who} {what}; try again in {whole} s", retry_after_seconds=float(whole))


class Quotas:
    """Gives every request that needs a key its caller's quota, or refuses it with 429."""

    def __init__(
        self, app: ASGIApp, *, limits: QuotaLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app = app
        self._limits = limits
        self._policy = limits.policy
        self._clock = clock
        self._quotas: OrderedDict[str, Quota] = OrderedDict()

    def __len__(self) -> int:
        return len(self._quotas)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http" or is_open(scope):
            await self.app(scope, receive, send)
            return
        quota = self._quota(scope)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = ((b"ratelimit-policy", self._policy), (b"ratelimit", quota.said()))
                message["headers"] = [*message.get("headers", ()), *fields]
            await send(message)

        try:
            quota.begin()
        except Overloaded as refusal:
            await send_error(scope, told, refusal)
            return
        scope[QUOTA] = quota
        try:
            await self.app(scope, receive, told)
        finally:
            quota.running -= 1

    def _quota(self, scope: Scope) -> Quota:
        tenant = scope.get("heed.tenant")
        caller = tenant or _address(scope)
        quota = self._quotas.get(caller)
        if quota is None:
            who = "this key" if tenant else "this address"
            quota = self._quotas[caller] = Quota(self._limits, who=who, clock=self._clock)
            if len(self._quotas) > MOST_CALLERS:
                self._forget_one()
        self._quotas.move_to_end(caller)
        return quota

    def _forget_one(self) -> None:
        """Forget who was not heard of for longest; never one with a request under way, for they are few."""
        for caller, quota in islice(self._quotas.items(), LOOKED_AT):
            if not quota.running:
                del self._quotas[caller]
                return


def _address(scope: Scope) -> str:
    """Return the address that the connection comes from; of IPv6 its network."""
    host: str = (scope.get("client") or ("",))[0]
    if ":" not in host:
        return host
    address = IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{int(address) >> (128 - NETWORK_BITS):x}::"
