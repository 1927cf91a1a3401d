"""What reads replies here reads them strictly: whole or not at all, however they come."""

import pytest

from tests.faults.wire import Cut, Incoming

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n0\r\n\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED


@pytest.mark.parametrize(
    ("sent", "body"),
    [(SIZED, b"abcde"), (CHUNKED, b"0\r\n\r\nabcde"), (CONTINUED, b"abcde")],
    ids=["sized", "chunked", "continued"],
)
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_reply_is_there_with_its_last_byte_and_not_before(sent: bytes, body: bytes, piece: int) -> None:
    incoming = Incoming()
    pieces = [sent[at : at + piece] for at in range(0, len(sent), piece)]
    found = [incoming.add(one) for one in pieces]
    assert found[:-1] == [None] * (len(pieces) - 1)
    assert found[-1] is not None
    assert (found[-1].status, found[-1].body) == (200, body)


@pytest.mark.parametrize("sent", [SIZED, CHUNKED])
def test_reply_that_ends_early_is_cut(sent: bytes) -> None:
    incoming = Incoming(sent[:-1])
    assert incoming.reply() is None
    with pytest.raises(Cut):
        incoming.add(b"")
