"""The two clients: the same methods, one waits, the other is awaited."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from heed_client import flows
from heed_client.errors import ConnectionFailed, DeadlineExceeded
from heed_client.exchange import Call, Deadline, Flow, Pause, Reply, Retries
from heed_client.inputs import Arrays, Inputs, as_inputs, as_qkv
from heed_client.options import AttendOptions, AttentionOptions, plain
from heed_client.results import ModelCard, Result
from heed_client.transport import arguments, failed, headers, reply_of

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")

# Connecting is quick or hopeless; an answer takes as long as the server's own deadline allows.
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class _Flows:
    """What both clients share: the flows of one session, ready to be driven."""

    def __init__(self, retries: Retries | None, clock: Callable[[], float]) -> None:
        self._session = flows.Session(retries or Retries(), clock)

    def _deadline(self, seconds: float | None) -> Deadline:
        return Deadline.after(seconds, clock=self._session.clock)

    def _attend(
        self, model: str, inputs: Inputs, deadline: float | None, options: Mapping[str, Any]
    ) -> Flow[Result]:
        found = as_inputs(inputs)
        return flows.attend(
            self._session,
            f"/v1/models/{quote(model, safe='')}/attend",
            [one.arrays() for one in found],
            strings=[one.strings() for one in found],
            options=plain(options),
            deadline=self._deadline(deadline),
            model_name=model,
        )

    def _attention(
        self,
        tensors: Mapping[str, Arrays | None],
        deadline: float | None,
        options: Mapping[str, Any],
    ) -> Flow[Result]:
        return flows.attend(
            self._session,
            "/v1/attention",
            as_qkv(tensors),
            options=plain(options),
            deadline=self._deadline(deadline),
        )


class Client(_Flows):
    """A connection pool to one Heed server. Use it as a context manager, or `close()` it.

    `api_key` is sent as a bearer token. `transport` replaces the network, as in httpx. A client may be
    used by several threads at once.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        retries: Retries | None = None,
        timeout: httpx.Timeout | float | None = _TIMEOUT,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(retries, clock)
        self._http = httpx.Client(
            base_url=url, headers=headers(api_key), timeout=timeout, transport=transport
        )
        self._sleep = sleep

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self, *, deadline: float | None = None) -> list[ModelCard]:
        """Return what is served; `deadline` is in seconds, retries included."""
        return self._drive(flows.models(self._session, self._deadline(deadline)))

    def model(self, name: str, *, deadline: float | None = None) -> ModelCard:
        """Describe one model; raises NotFound."""
        return self._drive(flows.model(self._session, name, self._deadline(deadline)))

    def attend(
        self, model: str, inputs: Inputs, *, deadline: float | None = None, **options: Unpack[AttendOptions]
    ) -> Result:
        """Return contextual vectors and attention of one sequence or many, each of its own length.

        A `str` is a text, a float array [T, d_model] embeddings, an integer array [T] token ids, an array
        [B, T, d_model] or a list several sequences, an `Input` all of that with memory and mask. A batch over
        the server's limits is split. `deadline` in seconds bounds the whole, retries included; the server
        drops what can no longer meet it. Raises the errors of `heed_client.errors`.
        """
        return self._drive(self._attend(model, inputs, deadline, options))

    def attention(
        self,
        query: Arrays,
        key: Arrays,
        value: Arrays,
        *,
        mask: Arrays | None = None,
        deadline: float | None = None,
        **options: Unpack[AttentionOptions],
    ) -> Result:
        """Return attention of the caller's own query, key and value, without a model.

        Each is [H, T, d_k] or [T, d_k]; lists of arrays are several sequences. `mask` is boolean, true where
        a key may be attended, or float and added to the scores.
        """
        tensors = {"query": query, "key": key, "value": value, "mask": mask}
        return self._drive(self._attention(tensors, deadline, options))

    def _drive(self, flow: Flow[T]) -> T:
        outcome: Reply | ConnectionFailed | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                self._sleep(step.seconds)
                outcome = None
            else:
                outcome = self._call(step)

    def _call(self, call: Call) -> Reply | ConnectionFailed:
        until = None if call.timeout_seconds is None else self._session.clock() + call.timeout_seconds
        try:
            with self._http.stream(**arguments(call)) as response:
                pieces: list[bytes] = []
                for piece in response.iter_bytes():
                    # httpx bounds each read, not the whole; this clock bounds the whole.
                    if until is not None and self._session.clock() > until:
                        raise DeadlineExceeded("the deadline passed before the whole reply was here")
                    pieces.append(piece)
                return reply_of(response, b"".join(pieces))
        except httpx.TransportError as error:
            return failed(error, call)


class AsyncClient(_Flows):
    """As Client, with methods to be awaited; used with `async with`, or closed with `aclose()`."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        retries: Retries | None = None,
        timeout: httpx.Timeout | float | None = _TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(retries, clock)
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers(api_key), timeout=timeout, transport=transport
        )
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self, *, deadline: float | None = None) -> list[ModelCard]:
        """As `Client.models`."""
        return await self._drive(flows.models(self._session, self._deadline(deadline)))

    async def model(self, name: str, *, deadline: float | None = None) -> ModelCard:
        """As `Client.model`."""
        return await self._drive(flows.model(self._session, name, self._deadline(deadline)))

    async def attend(
        self, model: str, inputs: Inputs, *, deadline: float | None = None, **options: Unpack[AttendOptions]
    ) -> Result:
        """As `Client.attend`. Cancelling the task tells the server, which drops what has not begun."""
        return await self._drive(self._attend(model, inputs, deadline, options))

    async def attention(
        self,
        query: Arrays,
        key: Arrays,
        value: Arrays,
        *,
        mask: Arrays | None = None,
        deadline: float | None = None,
        **options: Unpack[AttentionOptions],
    ) -> Result:
        """As `Client.attention`."""
        tensors = {"query": query, "key": key, "value": value, "mask": mask}
        return await self._drive(self._attention(tensors, deadline, options))

    async def _drive(self, flow: Flow[T]) -> T:
        outcome: Reply | ConnectionFailed | None = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Pause):
                await self._sleep(step.seconds)
                outcome = None
            else:
                outcome = await self._call(step)

    async def _call(self, call: Call) -> Reply | ConnectionFailed:
        try:
            async with asyncio.timeout(call.timeout_seconds):
                response = await self._http.request(**arguments(call))
                return reply_of(response, response.content)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the server answered") from error
        except httpx.TransportError as error:
            return failed(error, call)
