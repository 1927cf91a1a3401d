import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from service.logs import MOST_WAITING, LineWriter, configure_logging, printable


class Written(io.StringIO):
    """A stream that is looked at when all lines have been written."""

    def getvalue(self) -> str:
        for handler in logging.getLogger().handlers:
            handler.flush()
        return super().getvalue()


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A place for log lines; the root logger is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield Written()
    for own in root.handlers:
        if isinstance(own, LineWriter):
            own.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_line_has_time_level_message_and_fields(stream: io.StringIO) -> None:
    configure_logging(lines="json", level="info", stream=stream)
    logging.getLogger("x").info("request %s", "done", extra={"fields": {"id": "r1", "ms": 1.5}})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "info", "logger": "x", "message": "request done", "id": "r1", "ms": 1.5}


@pytest.mark.parametrize("lines", ["json", "console"])
@pytest.mark.parametrize("nasty", ["a\r\nb", "\x1b[31mred", "\x9b2J", "\u2028", "\x00", "\ud800", "é"])
def test_control_characters_make_no_new_line_and_no_escape(
    stream: io.StringIO, lines: str, nasty: str
) -> None:
    configure_logging(lines=lines, level="info", stream=stream)  # type: ignore[arg-type]
    logging.getLogger("x").info("%s", printable(nasty), extra={"fields": {"path": printable(nasty)}})
    text = stream.getvalue()
    assert text.endswith("\n")
    assert len(text[:-1].splitlines()) == 1
    assert text[:-1].isprintable()
    assert text.isascii()


def test_record_that_json_cannot_hold_is_still_one_line(stream: io.StringIO) -> None:
    configure_logging(lines="json", level="info", stream=stream)
    logging.getLogger("x").info("bad \ud800", extra={"fields": {"n": 2**70}})
    assert json.loads(stream.getvalue())["n"] == str(2**70)


@pytest.mark.parametrize("lines", ["json", "console"])
def test_traceback_is_logged_with_its_record(stream: io.StringIO, lines: str) -> None:
    configure_logging(lines=lines, level="info", stream=stream)  # type: ignore[arg-type]
    try:
        raise ValueError("the reason")
    except ValueError as error:
        logging.getLogger("x").error("failed", exc_info=error)
    assert "ValueError: the reason" in stream.getvalue()
    if lines == "json":
        assert "ValueError" in json.loads(stream.getvalue())["exception"]


def test_records_below_the_level_are_left_out(stream: io.StringIO) -> None:
    configure_logging(lines="json", level="warning", stream=stream)
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("uvicorn.error").warning("trouble")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["trouble"]


def test_uvicorn_configured_by_someone_else_speaks_through_us_again(stream: io.StringIO) -> None:
    theirs = logging.getLogger("uvicorn.error")
    theirs.propagate, theirs.disabled = False, True
    theirs.addHandler(logging.NullHandler())
    configure_logging(lines="json", level="info", stream=stream)
    theirs.info("ours")
    assert json.loads(stream.getvalue())["message"] == "ours"


def test_long_text_is_cut() -> None:
    assert printable("x" * 1000) == "x" * 200


class Stuck(io.StringIO):
    """A stream whose reader takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.reading = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.reading.wait(30)
        return super().write(text)


def test_reader_that_takes_nothing_holds_up_nobody_and_is_told_what_was_dropped(
    stream: io.StringIO,
) -> None:
    stuck = Stuck()
    handler = configure_logging(lines="json", level="info", stream=stuck)
    log = logging.getLogger("x")
    log.warning("first")
    assert stuck.entered.wait(30)
    for number in range(MOST_WAITING + 100):
        log.info("line %d", number)  # returns at once, or this test never ends
    stuck.reading.set()
    handler.close()
    lines = [json.loads(line)["message"] for line in stuck.getvalue().splitlines()]
    kept = [f"line {number}" for number in range(MOST_WAITING)]
    assert lines == ["first", *kept, "100 lines of this log were dropped"]


def test_nothing_is_lost_at_the_end(stream: io.StringIO) -> None:
    plain = io.StringIO()
    handler = configure_logging(lines="json", level="info", stream=plain)
    for number in range(1000):
        logging.getLogger("x").info("line %d", number)
    handler.close()
    assert [json.loads(line)["message"] for line in plain.getvalue().splitlines()] == [
        f"line {number}" for number in range(1000)
    ]


def test_closed_stream_is_no_reason_to_fail(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    handler = configure_logging(lines="json", level="info", stream=closed)
    closed.close()
    logging.getLogger("x").warning("to nobody")
    handler.close()
    assert capsys.readouterr().err == ""  # where logging writes what a handler raised
