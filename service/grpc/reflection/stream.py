"""One call of `grpc.reflection.v1.ServerReflection`: question after question, as long as they come.

No key is needed, as for `/openapi.json`: what is told is what the .proto files say. `v1alpha` is the same by
its older name, which programs ask for where a server has no `v1`, and some at once.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.errors import Malformed
from service.grpc.asgi import MessageReads
from service.grpc.reflection.answers import PACKAGE, answer, read_question

NAMES = tuple(f"{package}.ServerReflection" for package in (PACKAGE, f"{PACKAGE}alpha"))
NEXT_SECONDS = 5.0  # from one question to the next


class ReflectionService:
    """The method, which tells of `services` and of itself."""

    def __init__(self, reads: MessageReads, services: Sequence[str]) -> None:
        self._reads = reads
        self._services = (*services, NAMES[0])
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Let those go who might ask more."""
        self._ending.set()

    def handlers(self) -> dict[str, Any]:
        """Return the method."""
        return {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self._told)}

    async def _told(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        while (body := await self._next(context)) is not None:
            try:
                asked = read_question(body)
            except DecodeError:
                said = "the bytes are no ServerReflectionRequest"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, said)
                raise
            await context.write(answer(asked, self._services))

    async def _next(self, context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
        """Return the next message; None where there is none any more. Who waits too long is let go."""
        reading = asyncio.ensure_future(self._reads.read(context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({reading, ending}, timeout=NEXT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                with suppress(Malformed):  # the caller has asked all that it wanted to know
                    return reading.result()
                return None
        finally:
            for one in (reading, ending):
                one.cancel()
        if self._ending.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is going down")
        said = f"no question has come for {NEXT_SECONDS:g} s; call again to ask more"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, said)
        raise AssertionError  # abort has raised
