"""How Heed is reached: HTTP in front, batching behind it, one wall from torch.

app             the only place that wires: settings become plain values, stations are given each other
batching/       from a checked request to a batch on the device and back
cli             the command line, `heed`: one function a command
commands/       what a person types after `heed`: one module a command, and what they share
environment     settings read from the environment and the command line
errors          what the service refuses, and why; status codes are in `service/http/errors.py`
grpc/           the Open Inference Protocol over gRPC, on a port of its own
http/           the straight line of a request, and its schemas: everything that knows HTTP
inlet           bytes of a body are written once, by the kernel, where they are read from
interpreter     how threads share the interpreter and the cores
lifetime        the parts of a wired application, and its life: it begins, has a pulse, and ends
logs            one line a record, JSON or text for a terminal
memory_budget   one budget of memory for all requests, from their bodies to their replies
memory_granted  how much memory the process may use, and how much of it requests get by default
metrics/        what the server counts, in a registry of its own, and the page of it
named_folders   `NAME=PATH[:dtype]`: one model folder, wherever it is, and what to serve it as
processes/      several HTTP processes in front of one queue and one device
ray/            Ray Serve's application: `service.ray:app`
replicas/       one server inside somebody else's host of replicas
service_links   variables that Kubernetes makes for a Service called heed, which are no settings
settings        what an operator can set: `HEED_<NAME>` in the environment, `--<name>` on `heed serve`
socket/         the server's life and its connections: bytes of a socket become requests
tracing/        traces by OpenTelemetry: a span a request, its stations under it, and a span a batch
stations        which stations stand around the routes, by the settings
watchdog        who watches what may hang: red after `WATCHDOG_SECONDS`, the end when it lasts
web/            the Explorer's page, its styles and scripts
wire/           one module a format: bytes to numpy and back; no HTTP, no torch
"""

__version__ = "0.1.0"
