"""Which format a body is in, and which one the caller wants back. A new format is one line here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from models.outputs import Selection
from service.errors import Invalid, NotAcceptable, UnsupportedMedia
from service.http.around.accept import Headers, accept_of, quality, ranges_of
from service.wire import json_format, tensor_bodies
from service.wire.dtypes import Buffer, Reserve
from service.wire.names import quoted
from service.wire.reply import Reply

MOST_ACCEPTS = 64  # callers send the same few


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFormat:
    """How a body is read.

    `decode` returns the envelope: {"inputs": [{field: array or plain value}, …]}, beside it the options when
    they travel in the body; otherwise they are read from the query. It is told how to reserve the memory that
    this takes beside the body, and raises Malformed. `views`: arrays keep the body. `name` is the metrics
    label.
    """

    name: str
    media_type: str
    decode: Callable[[Buffer, Reserve], dict[str, Any]]
    views: bool = True
    options_in: Literal["body", "query"] = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFormat:
    """How a reply is written.

    `check` raises Invalid or NotAcceptable for what the format cannot carry, given the selection of every
    input, before any compute. `encode_pieces` gives the same piece by piece, where tensors are not sent as
    they are.
    """

    name: str
    media_type: str
    encode: Callable[[Reply], Sequence[Buffer]]
    check: Callable[[Sequence[Selection]], None]
    encode_pieces: Callable[[Reply], Iterator[Buffer]] | None = None


def request_format(headers: Headers) -> RequestFormat:
    """Return the format of a body by its Content-Type, JSON where there is none; raises UnsupportedMedia."""
    return _format_of(headers, REQUESTS)


def require_json(headers: Headers) -> None:
    """Raise UnsupportedMedia for a body that is said not to be JSON, where nothing else is read."""
    _format_of(headers, REQUESTS[:1])


def reply_format(headers: Headers) -> ReplyFormat:
    """Return the format the caller likes best by Accept (RFC 9110, section 12.5.1); raises NotAcceptable.

    The most specific range that fits a format gives its quality; JSON wins ties, and where there is no
    Accept at all.
    """
    accept = accept_of(headers)
    best = _best(accept) if accept else REPLIES[0]
    if best is None:
        known = ", ".join(one.media_type for one in REPLIES)
        raise NotAcceptable(f"Accept names no format that is written here; they are {known}")
    return best


def _format_of(headers: Headers, formats: Sequence[RequestFormat]) -> RequestFormat:
    given = next((value for name, value in headers if name == b"content-type"), None)
    if given is None:
        return formats[0]
    media_type = given.partition(b";")[0].decode("latin-1").strip()
    for one in formats:
        if media_type.lower() == one.media_type:
            return one
    known = ", ".join(one.media_type for one in formats)
    offer = f"one of {known}" if len(formats) > 1 else known
    raise UnsupportedMedia(f"Content-Type {quoted(media_type)} is not read here; send {offer}")


@lru_cache(maxsize=MOST_ACCEPTS)
def _best(accept: str) -> ReplyFormat | None:
    """Return the format of the highest quality; None where none has any."""
    ranges = ranges_of(accept)
    best = max(REPLIES, key=lambda one: quality(one.media_type, ranges))
    return best if quality(best.media_type, ranges) > 0 else None


def _check_json(selections: Sequence[Selection]) -> None:
    if any(selection.dtype == "bfloat16" for selection in selections):
        raise Invalid(
            "dtype bfloat16 is for binary formats only; accept application/x-safetensors, or float32"
        )


def _check_npy(selections: Sequence[Selection]) -> None:
    outputs = selections[0].outputs
    if len(selections) != 1 or len(outputs) != 1:
        raise NotAcceptable(
            f"a .npy file holds one array, but {len(selections)} inputs with {len(outputs)} outputs each are "
            "asked for; ask for one output of one input, as outputs=z, or accept application/x-safetensors"
        )


# The first of each is what is used where a caller does not say.
REQUESTS: tuple[RequestFormat, ...] = (
    RequestFormat(
        name="json",
        media_type="application/json",
        decode=json_format.decode,
        views=False,
        options_in="body",
    ),
    RequestFormat(name="npy", media_type="application/x-npy", decode=tensor_bodies.npy_inputs),
    RequestFormat(
        name="safetensors",
        media_type="application/x-safetensors",
        decode=tensor_bodies.safetensors_inputs,
    ),
)
REPLIES: tuple[ReplyFormat, ...] = (
    ReplyFormat(
        name="json",
        media_type="application/json",
        encode=lambda reply: (json_format.encode(reply),),
        check=_check_json,
        encode_pieces=json_format.encode_pieces,
    ),
    ReplyFormat(
        name="npy",
        media_type="application/x-npy",
        encode=tensor_bodies.npy_reply,
        check=_check_npy,
    ),
    ReplyFormat(
        name="safetensors",
        media_type="application/x-safetensors",
        encode=tensor_bodies.safetensors_reply,
        check=lambda _: None,
    ),
)
