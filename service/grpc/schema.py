"""The messages of the gRPC services: their classes, made of the .proto files beside this.

What protoc generates works with the versions of protobuf around its own and no others; this works with all.
The files are proto3, and of its grammar what they need is read here. A pool of our own, for other packages in
the process may bring messages of the same names.
"""

import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FOLDER = Path(__file__).parent
FILES = ("inference.proto", "health.proto", "reflection.proto")
COMMENT = re.compile(r"//[^\n]*")
TOKEN = re.compile(r'"[^"]*"|[\w.]+|\S')

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: _Field.Type.Value(f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}


class _Parser:
    """One file into its descriptor; a recursive descent over its tokens."""

    def __init__(self, name: str, source: str) -> None:
        self.file = descriptor_pb2.FileDescriptorProto(name=name)
        self._tokens = iter(TOKEN.findall(COMMENT.sub("", source)))
        self._kinds: dict[str, int] = {}  # of types, by their whole names
        self._pending: list[
            tuple[Any, str, str]
        ] = []  # fields, where they stand, and what they call their type

    def parse(self) -> Any:
        """Return the whole file."""
        for token in self._tokens:
            if token == "syntax":
                self.file.syntax = self._statement()[1].strip('"')
            elif token == "package":
                self.file.package = self._statement()[0]
            elif token == "message":
                self._message(self.file.message_type.add(name=next(self._tokens)), self.file.package)
            elif token == "enum":
                self._enum(self.file.enum_type.add(name=next(self._tokens)), self.file.package)
            elif token == "service":
                self._service(self.file.service.add(name=next(self._tokens)))
        for field, home, name in self._pending:
            self._resolve(field, home, name)
        return self.file

    def _statement(self) -> list[str]:
        """Return the tokens up to the next semicolon."""
        return list(iter(self._tokens.__next__, ";"))

    def _message(self, message: Any, outer: str) -> None:
        path = f"{outer}.{message.name}"
        self._kinds[path] = _Field.TYPE_MESSAGE
        self._body(message, path)

    def _body(self, message: Any, path: str, *, oneof: int | None = None) -> None:
        next(self._tokens)  # {
        for token in iter(self._tokens.__next__, "}"):
            if token == "message":
                self._message(message.nested_type.add(name=next(self._tokens)), path)
            elif token == "enum":
                self._enum(message.enum_type.add(name=next(self._tokens)), path)
            elif token == "oneof":
                message.oneof_decl.add(name=next(self._tokens))
                self._body(message, path, oneof=len(message.oneof_decl) - 1)
            else:
                self._field(message, path, [token, *self._statement()], oneof)

    def _field(self, message: Any, path: str, tokens: list[str], oneof: int | None) -> None:
        *kind, name, _, number = tokens
        field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
        first, *others = name.split("_")
        field.json_name = first + "".join(part.title() for part in others)
        if oneof is not None:
            field.oneof_index = oneof
        if kind[0] == "repeated":
            field.label = _Field.LABEL_REPEATED
        if kind[0] == "map":  # map < string , Type >
            entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
            entry.options.map_entry = True
            inner = f"{path}.{entry.name}"
            self._kinds[inner] = _Field.TYPE_MESSAGE
            self._field(entry, inner, [kind[2], "key", "=", "1"], None)
            self._field(entry, inner, [kind[4], "value", "=", "2"], None)
            field.label = _Field.LABEL_REPEATED
            kind = [entry.name]
        if kind[-1] in _SCALARS:
            field.type = _SCALARS[kind[-1]]
        else:
            self._pending.append((field, path, kind[-1]))

    def _enum(self, enum: Any, outer: str) -> None:
        self._kinds[f"{outer}.{enum.name}"] = _Field.TYPE_ENUM
        next(self._tokens)  # {
        for token in iter(self._tokens.__next__, "}"):
            enum.value.add(name=token, number=int(self._statement()[1]))

    def _service(self, service: Any) -> None:
        next(self._tokens)  # {
        for _ in iter(self._tokens.__next__, "}"):  # rpc Name ( Type ) returns ( Type )
            name, *others = self._statement()
            asked, told = (others[place - 1] for place, token in enumerate(others) if token == ")")
            method = service.method.add(name=name)
            method.input_type, method.output_type = (f".{self.file.package}.{one}" for one in (asked, told))
            before = others[: others.index("returns")]
            if "stream" in before:
                method.client_streaming = True
            if others.count("stream") > before.count("stream"):
                method.server_streaming = True

    def _resolve(self, field: Any, home: str, name: str) -> None:
        """Find a type from the innermost scope outwards, as protoc does."""
        while f"{home}.{name}" not in self._kinds:
            home = home.rpartition(".")[0]
        field.type, field.type_name = self._kinds[f"{home}.{name}"], f".{home}.{name}"


def read_proto(name: str) -> Any:
    """Return the FileDescriptorProto of one of the files."""
    return _Parser(name, (FOLDER / name).read_text("utf-8")).parse()


def message(name: str) -> Any:
    """Return the class of a message, by its whole name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


def methods(service: str) -> dict[str, Any]:
    """Return the descriptors of a service's methods, by name."""
    return {method.name: method for method in _pool().FindServiceByName(service).methods}


def file_named(name: str) -> bytes | None:
    """Return the descriptor of a file, as bytes; None where there is none."""
    return _pool().FindFileByName(name).serialized_pb if name in FILES else None


def file_of(symbol: str) -> bytes | None:
    """Return that of the file in which something is declared: a service, a method, a message, a field."""
    names = (symbol, symbol.rpartition(".")[0])  # of a method or a field its home
    for name in filter(None, names):
        with suppress(KeyError):
            return bytes(_pool().FindFileContainingSymbol(name).serialized_pb)
    return None


@cache
def _pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    for name in FILES:
        pool.Add(read_proto(name))
    return pool
