"""What our own server says of itself to the application, as an ASGI extension in the scope of a request.

ASGI has bodies be `bytes`, and servers rely on it: Ray Serve pickles every message. Our own connection writes
any buffer, so that tensors leave without being copied.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["BUFFERS", "CROWDED", "takes_buffers"]

BUFFERS = "heed.buffers"  # in scope["extensions"]: the body of a message may be any buffer
CROWDED = "heed.crowded"  # ... the request came on a connection beyond MAX_CONNECTIONS


def takes_buffers(scope: Mapping[str, Any]) -> bool:
    """Whether the server of a request takes memory views where ASGI says bytes."""
    return BUFFERS in (scope.get("extensions") or ())
