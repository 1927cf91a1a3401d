"""Where the process is in its life: one word that health, middleware and the server agree on."""

from dataclasses import dataclass, field
from typing import Literal

from service.errors import Unavailable


@dataclass(slots=True)
class Lifecycle:
    """starting → ready → draining, or failed from any of them; `failed` is final.

    Written by the server and the engine's `on_fatal`, from any thread: each write is one assignment.
    """

    state: Literal["starting", "ready", "draining", "failed"] = "starting"
    _why: Unavailable = field(
        default_factory=lambda: Unavailable(
            "the device failed; the server is going down", code="device_failed"
        )
    )

    def begin(self) -> None:
        """Answer requests from now on."""
        if self.state == "starting":
            self.state = "ready"

    def drain(self) -> None:
        """Still answer, and say that callers should go elsewhere."""
        if self.state != "failed":
            self.state = "draining"

    def fail(self, why: BaseException | None = None) -> None:
        """Answer nothing more that needs the device; `why`, where it is known to be something else."""
        if isinstance(why, Unavailable):
            self._why = why
        self.state = "failed"

    @property
    def refusal(self) -> Unavailable:
        """What is answered when it has failed."""
        return Unavailable(self._why.message, code=self._why.code)
