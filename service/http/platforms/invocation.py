"""One request whose route says nothing of what is asked: its body does.

JSON with `input` is a request of `/v1/embeddings`, with `inputs` that are objects one of `attend`, that are
tensors one of the Open Inference Protocol, that are texts one of text-embeddings-inference, with `instances`
one of Vertex AI. A binary body is one of `attend` or, with JSON before it, of the protocol. Which model
answers is said by `model`, else by `Context.model`. The codecs of those routes do the rest.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import Request
from starlette.datastructures import QueryParams

from service.batching.job import Completed
from service.errors import Invalid, Malformed
from service.http.attend import Negotiated
from service.http.context import ANY_MODEL, Context
from service.http.embeddings import Embedded
from service.http.envelope import nearest, require_few_options
from service.http.exchange import Asked, Numbers
from service.http.negotiate import reply_format, request_format
from service.http.oip.inference import Inference
from service.http.platforms.instances import Instances, attend_envelope
from service.http.platforms.protocol import Behind, Written, are_tensors, is_protocols
from service.http.replies import Fields
from service.http.resolve import Resolved
from service.http.tei.codec import TeiCodec
from service.http.tei.schemas import EmbedRequest
from service.http.texts.reading import Reading
from service.wire import json_format, oip
from service.wire.dtypes import Buffer, Reserve
from service.wire.names import member

ATTRIBUTES = b"x-amzn-sagemaker-custom-attributes"
SHAPES = (
    'a body has "inputs", as /v1/models/{model}/attend, /v2/models/{model}/infer or /embed, "input", as '
    '/v1/embeddings, or "instances" and "parameters", as Vertex AI'
)
OPTIONS = tuple(name for name in EmbedRequest.model_fields if name != "inputs")
Inner = Negotiated | Embedded | TeiCodec | Inference
KINDS = {**json_format.TENSORS, **oip.KINDS}


class Invocation:
    """The codec of a request by what its body is; of JSON that is known once it is read."""

    numbers: Numbers = "json"
    padded_bytes = 0

    def __init__(self, request: Request, context: Context, *, max_result_bytes: int) -> None:
        self._request, self._context, self._most = request, context, max_result_bytes
        headers = request.scope["headers"]
        self._binary: Inner | None = None
        if is_protocols(headers):
            name, _ = _named(_options(request))
            self._binary = inner = Behind(request, context, max_result_bytes, context.model(name, ANY_MODEL))
            self.incoming, self.outgoing, self.json_bytes = inner.incoming, inner.outgoing, inner.json_bytes
        else:
            form = request_format(headers)
            self.incoming, self.outgoing = form.name, reply_format(headers).name
            self.json_bytes = 0 if form.views else None
            if form.options_in == "query":
                name, query = _named(_options(request))
                card = context.model(name, ANY_MODEL)
                self._binary = Negotiated(request, context, card, query=query)
        self._inner: Inner | None = self._binary

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the checked request, and how its texts are read."""
        if self._binary is not None:
            read = self._binary.read(body, reserve)
        else:
            lifted = {*json_format.LIFTED, *oip.lifted_in(body)}
            read = self._understood(json_format.decode(body, reserve, tensors=KINDS, lifted=lifted), reserve)
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

    def _understood(self, envelope: dict[str, Any], reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Choose the codec of a JSON body; return what it makes of it."""
        given = [name for name in ("instances", "inputs", "input") if name in envelope]
        if len(given) != 1:
            raise Malformed(f"{SHAPES}; this one has {' and '.join(given) or 'none of them'}")
        if given == ["input"]:
            self._inner = embedded = Embedded(self._request, self._context)
            return embedded.understood(envelope)
        if given == ["inputs"] and are_tensors(envelope["inputs"]):
            card = self._context.model(None, ANY_MODEL)
            self._inner = tensors = Written(self._request, self._context, self._most, card, envelope=envelope)
            return tensors.read(b"", reserve)
        kind: type[Negotiated] = Negotiated
        if given == ["instances"]:
            kind, envelope = Instances, attend_envelope(envelope)
        name = envelope.get("model")
        if not isinstance(name, str | None):
            raise Invalid("model must be a string, a name that `GET /v1/models` lists")
        envelope = {key: value for key, value in envelope.items() if key != "model"}
        if kind is Negotiated and not _are_objects(envelope["inputs"]):
            name, envelope = _among_parameters(name, envelope)
            self._inner = tei = TeiCodec(self._request, self._context, None)
            return tei.understood(envelope, name)
        card = self._context.model(name, ANY_MODEL)
        self._inner = attend = kind(self._request, self._context, card)
        return attend.understood(envelope)


def _are_objects(inputs: Any) -> bool:
    """Whether inputs are those of `attend`; all others are texts and token ids, or two sorts of texts."""
    return isinstance(inputs, list) and all(isinstance(one, dict) for one in inputs)


def _among_parameters(name: str | None, envelope: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the model that is named, perhaps among parameters, and the request as `/embed` is asked it.

    There options stand beside `inputs`, and only `/similarity` has parameters. Raises Invalid.
    """
    parameters = envelope.get("parameters")
    if parameters is None:
        return name, envelope
    if not isinstance(parameters, dict):
        raise Invalid(f"parameters must be an object, of {', '.join(('model', *OPTIONS))}")
    among = parameters.get("model")
    if not isinstance(among, str | None):
        raise Invalid("parameters.model must be a string, a name that `GET /v1/models` lists")
    if None not in (name, among) and name != among:
        raise Invalid("model and parameters.model name two models; name one")
    left = {key: value for key, value in parameters.items() if key != "model"}
    if isinstance(envelope["inputs"], dict):
        return name or among, {**envelope, "parameters": left}
    for key in left:
        if key not in OPTIONS:
            raise Invalid(f"{member('parameters', key)} is no option of texts; {nearest(key, OPTIONS)}")
        if envelope.get(key) is not None:
            raise Invalid(f"{key} and parameters.{key} say the same; leave one out")
    given = {key: value for key, value in envelope.items() if key != "parameters" and key not in left}
    return name or among, given | left


def _named(query: list[tuple[str, str]]) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the model that options name, and the other options."""
    name = next((value for key, value in query if key == "model"), None)
    return name, [pair for pair in query if pair[0] != "model"]


def _options(request: Request) -> list[tuple[str, str]]:
    """Return the options of a binary body: of the query, and of the one header that SageMaker lets through.

    An attribute without `=` is no option but somebody's mark.
    """
    texts = [request.scope["query_string"]]
    texts += [value for name, value in request.scope["headers"] if name == ATTRIBUTES and b"=" in value]
    for text in texts:
        require_few_options(text)
    return [pair for text in texts for pair in QueryParams(text).multi_items()]
