"""One request whose route says nothing of what is asked: its body does.

JSON with `input` is a request of `/v1/embeddings`, with `inputs` one of `attend`, with `instances` one of
Vertex AI; a binary body is one of `attend`. Which model answers is said by `model`, else by `Context.model`.
The same codecs as on their own routes do the rest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import QueryParams

from service.batching.job import Completed
from service.errors import Invalid, Malformed
from service.http.attend import Negotiated
from service.http.context import ANY_MODEL, Context
from service.http.embeddings import Embedded
from service.http.envelope import require_few_options
from service.http.exchange import Asked, Numbers
from service.http.negotiate import reply_format, request_format
from service.http.platforms.instances import Instances, attend_envelope
from service.http.replies import Fields
from service.http.resolve import Resolved
from service.http.texts.reading import Reading
from service.wire import json_format
from service.wire.dtypes import Buffer, Reserve

ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
SHAPES = (
    'a body has "inputs", as /v1/models/{model}/attend, "input", as /v1/embeddings, or "instances" and '
    '"parameters", as Vertex AI'
)
Inner = Negotiated | Embedded


class Invocation:
    """The codec of a request by what its body is; of JSON that is known once it is read."""

    numbers: Numbers = "json"
    padded_bytes = 0

    def __init__(self, request: Request, context: Context) -> None:
        self._request, self._context = request, context
        headers = request.scope["headers"]
        form = request_format(headers)
        self._inner: Inner | None = None
        if form.options_in == "query":
            query = _options(request)
            name = next((value for key, value in query if key == "model"), None)
            card = context.model(name, ANY_MODEL)
            rest = [pair for pair in query if pair[0] != "model"]
            self._inner = Negotiated(request, context, card, query=rest)
        self._binary = self._inner
        self.incoming, self.outgoing = form.name, reply_format(headers).name
        self.json_bytes = 0 if form.views else None

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the checked request, and how its texts are read."""
        if self._binary is not None:
            read = self._binary.read(body, reserve)
        else:
            self._inner, envelope = self._of(json_format.decode(body, reserve))
            read = self._inner.understood(envelope)
        self.numbers, self.outgoing = self._known.numbers, self._known.outgoing
        return read

    @property
    def instances(self) -> bool:
        """Whether the body was found to have instances."""
        return isinstance(self._inner, Instances)

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items as they are to be computed."""
        checked = self._known.check(resolved)
        self.padded_bytes = self._known.padded_bytes
        return checked

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        return self._known.encode(done, resolved)

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:
        """Return the JSON piece by piece."""
        return self._known.pieces(done, resolved)

    def fields(self, done: Completed, resolved: Resolved) -> Fields:
        """Return the headers of a reply in pieces."""
        return self._known.fields(done, resolved)

    @property
    def _known(self) -> Inner:
        assert self._inner is not None
        return self._inner

    def _of(self, envelope: dict[str, Any]) -> tuple[Inner, Mapping[str, Any]]:
        """Return the codec of a JSON body, and the body in its words."""
        given = [name for name in ("instances", "inputs", "input") if name in envelope]
        if len(given) != 1:
            raise Malformed(f"{SHAPES}; this one has {' and '.join(given) or 'none of them'}")
        if given == ["input"]:
            return Embedded(self._request, self._context), envelope
        inner: type[Negotiated] = Negotiated
        if given == ["instances"]:
            inner, envelope = Instances, attend_envelope(envelope)
        name = envelope.get("model")
        if not isinstance(name, str | None):
            raise Invalid("model must be a string, a name that `GET /v1/models` lists")
        rest = {key: value for key, value in envelope.items() if key != "model"}
        return inner(self._request, self._context, self._context.model(name, ANY_MODEL)), rest


def _options(request: Request) -> list[tuple[str, str]]:
    """Return the options of a binary body: of the query, and of the one header that SageMaker lets through.

    An attribute without `=` is no option but somebody's mark.
    """
    texts = [request.scope["query_string"]]
    texts += [value for name, value in request.scope["headers"] if name == ATTRIBUTES and b"=" in value]
    for text in texts:
        require_few_options(text)
    return [pair for text in texts for pair in QueryParams(text).multi_items()]
