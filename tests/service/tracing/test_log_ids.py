import logging
import threading

import pytest

from tests.fakes import FakeRuntime
from tests.service.tracing.traced import CALLER, PARENT, TRACE_ID, id_of, traced
from tests.waiting import wait_until


def fields(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, object]]:
    return [record.fields for record in caplog.records if record.getMessage() == message]  # type: ignore[attr-defined]


def fail(_: object) -> None:
    raise RuntimeError("on purpose")


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_line_of_a_request_has_the_ids_of_its_span(caplog: pytest.LogCaptureFixture) -> None:
    with traced() as found:
        found.attend(traceparent=PARENT)
    (line,) = fields(caplog, "request")
    assert line["trace_id"] == TRACE_ID
    assert line["span_id"] == f"{id_of(found.server):016x}"
    assert line["status"] == 200


def test_line_has_the_callers_trace_even_where_nothing_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    with traced() as found:
        found.attend(traceparent=f"00-{TRACE_ID}-{CALLER}-00")
    assert [line["trace_id"] for line in fields(caplog, "request")] == [TRACE_ID]


def test_line_of_an_error_has_the_ids_of_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with traced() as found:
        found.app.state.service.engine._backlog.admit = fail
        assert found.attend(traceparent=PARENT).status_code == 500
    (line,) = fields(caplog, "a request failed unexpectedly")
    assert line["trace_id"] == TRACE_ID


def test_line_of_a_failed_batch_has_the_traces_in_it(caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime(before_run=fail)
    with traced(runtime) as found:
        found.attend(traceparent=PARENT)
    (line,) = fields(caplog, "a batch of 1 failed")
    assert line == {"trace_id": TRACE_ID}


def test_line_of_a_failed_batch_of_several_has_them_all(caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime(before_run=lambda batch: fail(batch) if len(batch) == 2 else None)
    others = [PARENT, PARENT.replace(TRACE_ID, "1" * 32), PARENT.replace(TRACE_ID, "2" * 32)]
    runtime.gate.clear()
    with traced(runtime) as found:
        engine = found.app.state.service.engine
        callers = []
        for number, parent in enumerate(others):  # the first holds the device
            callers.append(threading.Thread(target=found.attend, kwargs={"traceparent": parent}))
            callers[-1].start()
            wait_until(lambda number=number: engine.queued_requests > number, "it is admitted")
            if number == 0:
                wait_until(lambda: engine.oldest_batch_seconds > 0, "it runs")
        runtime.gate.set()
        for caller in callers:
            caller.join()
    (line,) = fields(caplog, "a batch of 2 failed")
    assert sorted(line["trace_ids"]) == ["1" * 32, "2" * 32]  # type: ignore[arg-type, call-overload]


def test_line_that_belongs_to_no_request_has_no_ids(caplog: pytest.LogCaptureFixture) -> None:
    with traced() as found:
        found.client.get("/health")
        logging.getLogger("x").info("alone")
    (probe,) = fields(caplog, "request")
    assert "trace_id" not in probe
    assert not hasattr(next(one for one in caplog.records if one.name == "x"), "fields")


def test_log_is_as_before_when_the_application_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    before = [list(handler.filters) for handler in logging.getLogger().handlers]
    with traced():
        assert [list(handler.filters) for handler in logging.getLogger().handlers] != before
    assert [list(handler.filters) for handler in logging.getLogger().handlers] == before
    assert logging.getLogger("opentelemetry").propagate
