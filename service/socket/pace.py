"""How far a caller is behind: with a request's head, with its body, or with reading a reply.

Under `connection`. All three are counted in seconds, so that one scale says who keeps the server waiting the
longest. Bodies and readers have a least rate, measured as a leaky bucket: every second adds one, every byte
takes off what it may cost at that rate, and nothing goes below zero. Who keeps the rate is never late,
however much there is to send; what was sent fast earns nothing for later.
"""

import struct
from asyncio import Transport
from dataclasses import dataclass

try:
    import fcntl
    import termios
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a caller has to keep to.

    The rate and the seconds that one may fall behind it are Apache's (mod_reqtimeout: 500 bytes a second
    after 20 seconds); a rate of 0 has any byte do.
    """

    keep_alive_seconds: int = (
        75  # longer than balancers and clients keep theirs, so that it is they who close
    )
    head_seconds: float = 10
    stall_seconds: float = 20
    min_bytes_per_second: int = 500


class Pace:
    """Seconds that one side is behind the least rate."""

    __slots__ = ("_rate", "_since")

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._since = 0.0

    def begin(self, now: float) -> None:
        """Be behind with nothing."""
        self._since = now

    def moved(self, count: int, now: float) -> None:
        """Take note of bytes, the last of them at `now`."""
        self._since = min(now, self._since + count / self._rate) if self._rate else now

    def behind(self, now: float) -> float:
        """Return the seconds at `now`."""
        return now - self._since

    def forgive(self, seconds: float) -> None:
        """Take off what was not the other side's fault."""
        self._since += seconds


def unread_bytes(transport: Transport) -> int:
    """Return what was written and has not reached the other side: ours to send, and the kernel's.

    The kernel tells of room only when there is a lot, megabytes of a large reply; of a slow line that would
    look like silence.
    """
    ours = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if fcntl is None or connection is None or not hasattr(termios, "TIOCOUTQ"):
        return ours
    try:
        kernels = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))  # tcp(7), SIOCOUTQ
    except (OSError, ValueError):  # closed meanwhile
        return ours
    return ours + int(struct.unpack("i", kernels)[0])
