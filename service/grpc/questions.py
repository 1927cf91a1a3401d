"""What is asked of the server and its models: a message, as the request of `/v2` that means the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from service.errors import Invalid, Malformed, NotFound
from service.grpc import schema
from service.wire.names import quoted

PACKAGE = "inference."


@dataclass(frozen=True, slots=True)
class OipRequest:
    """A request to a route of `/v2`; `body` None: it has none, and is a GET."""

    path: str
    body: dict[str, Any] | None = None


class GrpcQuestion:
    """One method: how a message of it is asked under `/v2`, and what the answer becomes.

    `refusals` are statuses whose answer is no error.
    """

    def __init__(
        self,
        method: str,
        ask: Callable[[Any], OipRequest],
        told: Callable[[int, Any], dict[str, Any]],
        *,
        refusals: tuple[int, ...] = (),
    ) -> None:
        self._request = schema.message(f"{PACKAGE}{method}Request")
        self._response = schema.message(f"{PACKAGE}{method}Response")
        self._ask, self._told = ask, told
        self.refusals = refusals

    def asked(self, body: bytes) -> OipRequest:
        """Return the request of `/v2`; raises Malformed, Invalid, NotFound."""
        try:
            given = self._request.FromString(body)
        except DecodeError:
            name = self._request.DESCRIPTOR.name
            raise Malformed(f"the bytes of the call are no {name}") from None
        return self._ask(given)

    def answered(self, status: int, body: Any) -> bytes:
        """Return the reply's message, of what `/v2` said in JSON."""
        message = json_format.ParseDict(self._told(status, body), self._response())
        return bytes(message.SerializeToString())


def questions() -> dict[str, GrpcQuestion]:
    """Return all of them, by method."""
    made = {
        "ModelReady": ((_of_model("/ready"), _ready), (404, 503)),
        "ServerMetadata": ((lambda _: OipRequest("/v2"), _same), ()),
        "ModelMetadata": ((_of_model(""), _same), ()),
        "ModelConfig": ((_of_model("/config"), _configuration), ()),
        "ModelStatistics": ((_statistics, _same), ()),
        "RepositoryIndex": ((_index, lambda _, body: {"models": body}), ()),
        "RepositoryModelLoad": ((_repository("load"), lambda *_: {}), ()),
        "RepositoryModelUnload": ((_repository("unload"), lambda *_: {}), ()),
    }
    return {name: GrpcQuestion(name, *how, refusals=refusals) for name, (how, refusals) in made.items()}


def _same(_: int, body: Any) -> dict[str, Any]:
    return dict(body)


def _ready(status: int, _: Any) -> dict[str, Any]:
    return {"ready": status == 200}


def _configuration(_: int, body: Any) -> dict[str, Any]:
    """Return the configuration; a version that is no number cannot be said."""
    versions = body["version_policy"]["specific"]["versions"]
    if not all(version.isdecimal() for version in versions):
        body = {name: value for name, value in body.items() if name != "version_policy"}
    return {"config": body}


def _of_model(rest: str) -> Callable[[Any], OipRequest]:
    def ask(given: Any) -> OipRequest:
        version = f"/versions/{_part(given.version)}" if given.version else ""
        return OipRequest(f"/v2/models/{_part(given.name)}{version}{rest}")

    return ask


def _statistics(given: Any) -> OipRequest:
    return _of_model("/stats")(given) if given.name else OipRequest("/v2/models/stats")


def _index(given: Any) -> OipRequest:
    return OipRequest("/v2/repository/index", {"ready": given.ready})


def _repository(verb: str) -> Callable[[Any], OipRequest]:
    def ask(given: Any) -> OipRequest:
        parameters = {name: _value(one) for name, one in given.parameters.items()}
        path = f"/v2/repository/models/{_part(given.model_name)}/{verb}"
        return OipRequest(path, {"parameters": parameters})

    return ask


def _value(parameter: Any) -> object:
    chosen = parameter.WhichOneof("parameter_choice")
    if chosen == "bytes_param":
        raise Invalid("files of a model are not taken from a call; put them into its folder")
    return getattr(parameter, chosen) if chosen else None


def _part(name: str) -> str:
    """Return a name that is one part of a path; raises Invalid, NotFound."""
    if not name:
        raise Invalid("the name of the model is empty; name one")
    if "/" in name:
        raise NotFound(f"no model is called {quoted(name)}", code="unknown_model")
    return name
