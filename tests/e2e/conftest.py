"""Processes and raw connections: what the end-to-end tests see is what goes over the socket."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
ATTEND = "/v1/models/fake/attend"
Start = Callable[..., "FakeServer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP reply as it came: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code: str = self.json()["error"]["code"]
        return code


@dataclass(slots=True)
class FakeServer:
    """A running `tests.e2e.fake_server`."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path
    grpc_port: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, raw: bytes) -> Answer | None:
        """Send bytes on a connection of their own; None when it is closed without a reply."""
        with self.connect() as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(raw)  # refused before all is sent, the reply comes all the same
            return read(connection)

    def get(self, path: str) -> Answer:
        answer = self.send(request("GET", path))
        assert answer is not None
        return answer

    def attend(self, tokens: int = 2) -> Answer:
        answer = self.send(attend_request(tokens))
        assert answer is not None
        return answer

    def stop(self, timeout_seconds: float = 20) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended(timeout_seconds)

    def ended(self, timeout_seconds: float = 20) -> int:
        """Wait for the end; return the exit status and keep the log, every line of which must be JSON."""
        status = self.process.wait(timeout=timeout_seconds)
        self.log = [json.loads(line) for line in self.log_file.read_bytes().splitlines()]
        return status


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start fake servers; each is stopped, if need be by force, when the test ends."""
    yield from _starting(tmp_path)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same for a server that a whole module shares."""
    yield from _starting(tmp_path_factory.mktemp("server"))


def _starting(folder: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(**plan: object) -> FakeServer:
        command = [sys.executable, "-m", "tests.e2e.fake_server", json.dumps(plan)]
        log_file = folder / f"{len(processes)}.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log)
        processes.append(process)
        assert process.stdout is not None
        port, *others = map(int, process.stdout.readline().split())
        server = FakeServer(process, port, log_file, *others)
        while True:  # the address is taken before the server listens on it
            try:
                assert server.get("/health").status == 200
                return server
            except ConnectionRefusedError:
                assert process.poll() is None

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=20)
        assert process.stdout is not None
        process.stdout.close()


def request(method: str, path: str, *lines: str, body: bytes = b"", host: str = "Host: x") -> bytes:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", host, *lines])
    return f"{head}\r\n\r\n".encode("latin-1") + body


def attend_request(tokens: int = 2) -> bytes:
    body = json.dumps({"inputs": [{"token_ids": list(range(tokens))}], "outputs": ["z"]}).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    return request("POST", ATTEND, *lines, body=body)


def read(connection: socket.socket) -> Answer | None:
    """Read one reply; None when the connection ends before it begins."""
    received = b""
    try:
        while b"\r\n\r\n" not in received:
            received += (piece := connection.recv(65536))
            if not piece:
                assert not received, "a reply broke off"
                return None
        head, _, body = received.partition(b"\r\n\r\n")
        status, headers = parse(head)
        while len(body) < int(headers["content-length"]):
            body += (piece := connection.recv(65536))
            assert piece, "a reply broke off"
    except ConnectionResetError:
        return None
    return Answer(status, headers, body)


def parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status = first.split(" ")[:2]
    assert version == "HTTP/1.1"
    pairs = [line.split(": ", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs), "a header is given twice"
    return int(status), {name.lower(): value for name, value in pairs}


class Caller:
    """One keep-alive connection that asks again and again, over asyncio streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> "Caller":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, raw: bytes) -> Answer:
        """Send one request and read its whole reply; raises when either is cut off."""
        self._writer.write(raw)
        await self._writer.drain()
        status, headers = parse((await self._reader.readuntil(b"\r\n\r\n"))[:-4])
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(status, headers, body)

    async def leave(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
