"""How Heed is reached: HTTP in front, batching behind it, one wall from torch.

app             the only place that wires: settings become plain values, stations are handed to each other
batching/       from a checked request to a batch on the device and back
cli             the command line, `heed`: one function a command, each added by one line at the end
commands/       what a person types after `heed`: one module a command, and what they share
errors          what the service refuses, and why. Status codes are known only to `service/http/errors.py`
http/           the straight line of a request, and its schemas: everything that knows HTTP
inlet           from the socket into place: the bytes of a body are written once, by the kernel, where they
                are read from
interpreter     how threads share the interpreter and the cores: what `heed serve` sets once, before the
                models
lifetime        the parts of a wired application, and its life: it begins, has a pulse, and ends
logs            how the server speaks to its operator: stdlib logging, one line a record, JSON or text for a
                terminal
memory_budget   one budget of memory for all requests: bodies, what is read of them, results, and replies
                until sent
memory_granted  how much memory the process may use, and how much of it requests get where the operator does
                not say
metrics         what the server counts: every metric of the contract, in a registry of its own
named_folders   `NAME=PATH[:dtype]`: one model folder, wherever it is, and what to serve it as
processes/      several HTTP processes in front of one queue and one device
service_links   variables that Kubernetes makes, in every container of a namespace, for a Service called
                heed or heed-…
settings        what an operator can set: `HEED_<NAME>` in the environment, `--<name>` on `heed serve`
socket/         the server's life and its connections: bytes of a socket become requests, bodies in place
watchdog        who watches what may hang: red at `WATCHDOG_SECONDS` without a sign of life, the end when it
                lasts
wire/           one module a format: bytes to numpy and back; no HTTP, no torch
"""

__version__ = "0.1.0"
