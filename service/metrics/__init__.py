"""What the server counts, in a registry of its own, and the page of it: beside the request line.

The stations call `Metrics` with plain values, `GET /metrics` renders the page. Labels are given by the route
table and the model registry, never by a URL.

exposition  the page in the Prometheus text format, or in OpenMetrics, which has exemplars
gauges      what is read whenever the page is asked for, not kept
inferences  what was asked of each model, and where its time went
processes   processor time, memory and files of the server's processes, together
registry    `Metrics`: every counter and histogram, and what the stations call
sharing     numbers and exemplars of several HTTP processes, in files beside each other's
"""
