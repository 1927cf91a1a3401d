"""`heed healthcheck`: whether the server in this container answers, wherever it listens.

Beside the request line; the image's HEALTHCHECK calls it as `python -m service.commands.healthcheck`, which
spares it the imports of the command line. Where the server listens is what the kernel says of its processes
(proc(5)), and so is right whoever set the port: an option, a variable, or nobody, when it is 0.
"""

import http.client
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

ANSWER_SECONDS = 2.0
LISTENING = "0A"  # a state, as net/tcp_states.h of Linux numbers them
WORKER = "service.processes.worker"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # and where to ask then
Address = tuple[str, int]


def healthcheck() -> None:
    """Ask the server of this container how it is; exit 0 when it answers that it is well."""
    sys.exit(check())


def check(proc: Path = Path("/proc")) -> int:
    """Return the exit status, 0 or 1, and print why."""
    found = addresses(proc)
    for host, port in found:
        status = _status(host, port)
        if status is not None:
            print(f"{host} port {port}: /health answers {status}")  # noqa: T201  who runs it reads it
            return int(status != http.client.OK)
    print(f"no server answers at {found}" if found else "no server listens")  # noqa: T201
    return 1


def addresses(proc: Path) -> list[Address]:
    """Return where this user's servers listen; a process's first socket, which is of HTTP, first.

    Where no server's process can be looked into, it is what the environment says.
    """
    listening = dict(_listening(proc))
    numbers = sorted(int(folder.name) for folder in proc.glob("[0-9]*"))
    servers = [found for number in numbers if (found := _sockets(proc / str(number))) is not None]
    if not servers:
        return [_from_environment()]
    return list(dict.fromkeys(listening[one] for found in servers for one in found if one in listening))


def _sockets(process: Path) -> list[str] | None:
    """Return the inodes of a process's sockets, in the order of their descriptors; None: it is no server."""
    try:
        words = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")]
        if WORKER not in words and not ("serve" in words and any(map(_is_heed, words))):
            return None
        files = sorted((process / "fd").iterdir(), key=lambda file: int(file.name))
        links = [os.readlink(file) for file in files]
    except OSError:  # it has ended, or is another user's
        return None
    return [link[len("socket:[") : -1] for link in links if link.startswith("socket:[")]


def _is_heed(word: str) -> bool:
    return word == "service.cli" or word.rpartition("/")[2] == "heed"


def _listening(proc: Path) -> Iterator[tuple[str, Address]]:
    """Yield every listening socket of TCP: its inode, and an address at which it can be asked."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == LISTENING:
                yield fields[9], _address(fields[1])


def _address(field: str) -> Address:
    """Read HEXADDRESS:HEXPORT, whose address is of words in the machine's byte order."""
    digits, _, port = field.partition(":")
    words = bytes.fromhex(digits)
    if sys.byteorder == "little":
        words = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    family = socket.AF_INET if len(words) == 4 else socket.AF_INET6
    host = socket.inet_ntop(family, words)
    return ANY_ADDRESS.get(host, host), int(port, 16)


def _from_environment() -> Address:
    """Return what the environment says, where processes cannot be looked into."""
    host, port = os.environ.get("HEED_HOST", "127.0.0.1"), os.environ.get("HEED_PORT", "8000")
    return ANY_ADDRESS.get(host, host), int(port)


def _status(host: str, port: int) -> int | None:
    """Return the status of /health, None where nothing answers in HTTP."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


if __name__ == "__main__":
    healthcheck()
