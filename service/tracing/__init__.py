"""Traces by OpenTelemetry: a span a request, with its stations under it, and a span a batch.

Beside the request line, and imported only where OpenTelemetry's own variables ask for traces
(`service.environment`). Spans are made of times that were taken anyway; a thread of the SDK sends them.

station    ASGI, outermost: begins and ends the span of a request, takes its parent from `traceparent`
spans      what a request's span says, and the spans of its stations, made when it is over
batches    a span a batch that the device ran, linked to the requests in it
log_ids    the ids of the trace in every line of the log that belongs to a request
exporters  who sends spans, by the variables; a collector that is away is told of once
tracing    all of it put together: one Tracing an application
"""
