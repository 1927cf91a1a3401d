"""Variables that Kubernetes makes, in every container of a namespace, for a Service called heed or heed-….

They look like settings and are none: `HEED_SERVICE_HOST`, `HEED_PORT=tcp://10.0.0.1:80`,
`HEED_PORT_80_TCP_ADDR`, and the same with the rest of the Service's name behind `HEED_`. Docker's links make
those with PORT, too.
"""

import re

BY_NAME = re.compile(r"HEED_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?)")
PORT = re.compile(r"HEED_([A-Z0-9_]+_)?PORT(_\d+_(TCP|UDP|SCTP))?")
PORT_PART = re.compile(r"HEED_([A-Z0-9_]+_)?PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)")
ADDRESS = re.compile(r"(tcp|udp|sctp)://.*", re.IGNORECASE)


def is_service_link(variable: str, value: str) -> bool:
    """Whether a variable was made for a Service: by its name, or its value where the name could be ours."""
    if BY_NAME.fullmatch(variable) or PORT_PART.fullmatch(variable):
        return True
    return PORT.fullmatch(variable) is not None and ADDRESS.fullmatch(value) is not None
