"""The two clients: the same methods, one waits, the other is awaited."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from heed_client import flows
from heed_client.base import Flows
from heed_client.errors import DeadlineExceeded
from heed_client.exchange import Call, Flow, Outcome, Pause, Retries
from heed_client.inputs import Arrays, Inputs
from heed_client.options import AttendOptions, AttentionOptions
from heed_client.replay import Replay, Words
from heed_client.results import ModelCard, Result, TokenizedText
from heed_client.transport import arguments, failed, headers, reply_of

__all__ = ["AsyncClient", "Client"]

T = TypeVar("T")

# Connecting is quick or hopeless; an answer takes as long as the server's own deadline allows.
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class Client(Flows):
    """Connections to one Heed server, or several of the same models; a context manager, or `close()` it.

    `url` names several as a list or with commas: each request goes to the one with the fewest outstanding,
    and to another where that one cannot be reached, breaks off, is not ready or is full. `api_key` is sent
    as a bearer token. `transport` replaces the network, as in httpx. A client may be used by several threads
    at once. Raises ValueError for what is no URL.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        retries: Retries | None = None,
        timeout: httpx.Timeout | float | None = _TIMEOUT,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(url, retries, clock)
        self._http = httpx.Client(headers=headers(api_key), timeout=timeout, transport=transport)
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

    def tokenize(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        truncate: bool = False,
        deadline: float | None = None,
    ) -> list[TokenizedText]:
        """Return the tokens of a text, or of several, however long; nothing is computed.

        With `truncate` each is cut to what the model takes.
        """
        how = {"add_special_tokens": add_special_tokens, "truncate": truncate}
        return self._drive(self._tokenize(model, texts, deadline, **how))

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

    def replay(
        self,
        model: str,
        prompt: Words,
        answer: Words,
        *,
        deadline: float | None = None,
        **options: Unpack[AttendOptions],
    ) -> Replay:
        """Return what each step that generated `answer` after `prompt` attended to, in one pass.

        Both texts, or both token ids [T]; of a causal model. As `attend` otherwise, with weights of all
        layers unless the options say what else; `rows` are the answer's. What sampling computed token by
        token is the same within rounding.
        """
        return self._drive(self._replay(model, prompt, answer, deadline, options))

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
        outcome: Outcome | None = None
        with closing(flow):  # so that a call that ends otherwise is counted out
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

    def _call(self, call: Call) -> Outcome:
        until = None if call.timeout_seconds is None else self._session.clock() + call.timeout_seconds
        try:
            with self._http.stream(**arguments(call, self._http.timeout)) as response:
                pieces: list[bytes] = []
                for piece in response.iter_bytes():
                    # httpx bounds each read, not the whole; this clock bounds the whole.
                    if until is not None and self._session.clock() > until:
                        return DeadlineExceeded("the deadline passed before the whole reply was here")
                    pieces.append(piece)
                return reply_of(response, b"".join(pieces))
        except httpx.TransportError as error:
            return failed(error, call)


class AsyncClient(Flows):
    """As Client, with methods to be awaited; used with `async with`, or closed with `aclose()`."""

    def __init__(
        self,
        url: str | Sequence[str] = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        retries: Retries | None = None,
        timeout: httpx.Timeout | float | None = _TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(url, retries, clock)
        self._http = httpx.AsyncClient(headers=headers(api_key), timeout=timeout, transport=transport)
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

    async def tokenize(
        self,
        model: str,
        texts: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        truncate: bool = False,
        deadline: float | None = None,
    ) -> list[TokenizedText]:
        """As `Client.tokenize`."""
        how = {"add_special_tokens": add_special_tokens, "truncate": truncate}
        return await self._drive(self._tokenize(model, texts, deadline, **how))

    async def attend(
        self, model: str, inputs: Inputs, *, deadline: float | None = None, **options: Unpack[AttendOptions]
    ) -> Result:
        """As `Client.attend`. Cancelling the task tells the server, which drops what has not begun."""
        return await self._drive(self._attend(model, inputs, deadline, options))

    async def replay(
        self,
        model: str,
        prompt: Words,
        answer: Words,
        *,
        deadline: float | None = None,
        **options: Unpack[AttendOptions],
    ) -> Replay:
        """As `Client.replay`."""
        return await self._drive(self._replay(model, prompt, answer, deadline, options))

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
        outcome: Outcome | None = None
        with closing(flow):  # so that a call that ends otherwise is counted out
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

    async def _call(self, call: Call) -> Outcome:
        try:
            async with asyncio.timeout(call.timeout_seconds):
                response = await self._http.request(**arguments(call, self._http.timeout))
                return reply_of(response, response.content)
        except TimeoutError:
            return DeadlineExceeded("the deadline passed before the server answered")
        except httpx.TransportError as error:
            return failed(error, call)
