"""Questions of `grpc.reflection.v1.ServerReflection`, answered out of the files that are there.

Source: gRPC `src/proto/grpc/reflection/v1/reflection.proto`. None of our messages has extensions.
"""

from collections.abc import Sequence
from typing import Any

from service.grpc import schema
from service.wire.names import quoted

NOT_FOUND, INVALID_ARGUMENT = 5, 3  # of grpc.StatusCode, as numbers
PACKAGE = "grpc.reflection.v1"


def read_question(body: bytes) -> Any:
    """Return a question; raises DecodeError."""
    return schema.message(f"{PACKAGE}.ServerReflectionRequest").FromString(body)


def answer(asked: Any, services: Sequence[str]) -> bytes:
    """Return what answers a question to a server of some services."""
    made = schema.message(f"{PACKAGE}.ServerReflectionResponse")(
        valid_host=asked.host, original_request=asked
    )
    kind = asked.WhichOneof("message_request")
    value: Any = getattr(asked, kind) if kind else None
    if kind == "list_services":
        for name in services:
            made.list_services_response.service.add(name=name)
    elif kind in ("file_by_filename", "file_containing_symbol"):
        find = schema.file_named if kind == "file_by_filename" else schema.file_of
        found = find(value)
        if found is None:
            _refuse(made, NOT_FOUND, f"nothing is called {quoted(value)}; ask for list_services")
        else:
            made.file_descriptor_response.file_descriptor_proto.append(found)
    elif kind == "all_extension_numbers_of_type" and schema.file_of(value) is not None:
        made.all_extension_numbers_response.base_type_name = value
    elif kind is None:
        _refuse(made, INVALID_ARGUMENT, "the message asks nothing; ask for list_services")
    else:
        _refuse(made, NOT_FOUND, "no message here has extensions")
    return bytes(made.SerializeToString())


def _refuse(made: Any, code: int, said: str) -> None:
    made.error_response.error_code, made.error_response.error_message = code, said
