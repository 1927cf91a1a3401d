"""The ids of the trace in every line of the log that belongs to a request.

A filter of the handlers that the log has: whatever is logged while a request's span is the current one.
"""

import logging

from opentelemetry import trace


class TraceIds(logging.Filter):
    """Adds `trace_id` and `span_id` to a record's fields; lets every record through."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids, where there is a current span."""
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            fields = getattr(record, "fields", None) or {}
            record.fields = {
                **fields,
                "trace_id": trace.format_trace_id(context.trace_id),
                "span_id": trace.format_span_id(context.span_id),
            }
        return True
