"""Where the process is in its life: one word that health, middleware and the server agree on."""

from dataclasses import dataclass
from typing import Literal


@dataclass(slots=True)
class Lifecycle:
    """starting → ready → draining, or failed from any of them; `failed` is final.

    Written by the server and the engine's `on_fatal`, from any thread: each write is one assignment.
    """

    state: Literal["starting", "ready", "draining", "failed"] = "starting"

    def begin(self) -> None:
        """Answer requests from now on."""
        if self.state == "starting":
            self.state = "ready"

    def drain(self) -> None:
        """Still answer, and say that callers should go elsewhere."""
        if self.state != "failed":
            self.state = "draining"

    def fail(self) -> None:
        """Answer nothing more that needs the device."""
        self.state = "failed"
