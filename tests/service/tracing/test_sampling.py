import pytest

from tests.asgi import call
from tests.service.tracing.traced import CALLER, PARENT, STAGES, TRACE_ID, traced

UNSAMPLED = f"00-{TRACE_ID}-{CALLER}-00"


def test_what_the_caller_does_not_sample_is_not_recorded() -> None:
    with traced() as found:
        reply = found.attend(traceparent=UNSAMPLED)
    assert reply.status_code == 200
    assert "traceresponse" not in reply.headers
    assert found.spans == []


def test_sampler_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with traced() as found:
        found.attend()
        found.attend(traceparent=PARENT)
    assert [span.name for span in found.stages(found.server)] == STAGES
    assert found.server.parent is not None


def test_batch_is_recorded_for_the_requests_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    with traced() as found:
        for sent in (UNSAMPLED, PARENT, UNSAMPLED):
            found.attend(traceparent=sent)
    assert len(found.servers) == len(found.batches) == 1


def test_scope_has_the_trace_only_where_it_is_recorded() -> None:
    with traced() as found:
        scopes = [
            call(found.app, "/v1/models", headers=[("traceparent", sent)]).scope
            for sent in (PARENT, UNSAMPLED)
        ]
        probe = call(found.app, "/health").scope
    assert [scope.get("heed.trace_id") for scope in (*scopes, probe)] == [TRACE_ID, None, None]
