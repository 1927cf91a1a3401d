"""What a block does after its attention as one call of compiled code: residuals, norms, feed-forward.

The same as `Block.finish` operator by operator, within a rounding: with each of them the interpreter's lock
is given back and taken again, and every row comes from memory once more. Which of the two runs depends on
the model alone, so that a row's bits do not depend on what it is computed beside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from models.compiled.calls import Points
from models.compiled.native import Native, native
from models.compiled.panels import Feed
from models.compiled.structures import ACTIVATIONS
from models.device.steps import Steps
from models.encoder.mlp import MLP
from models.encoder.norm import Norm

STEP_ROWS = 1024  # d_model 768 → 2304 on two cores: 17 ms


@dataclass(frozen=True, slots=True)
class Finish:
    """What `Feed` says, of x that entered the block and z; without `residual` nothing of either is added."""

    ours: Native
    network: Feed
    residual: bool

    @classmethod
    def of(
        cls, network: MLP, norms: Mapping[str, Norm | None], *, post: bool, parallel: bool, residual: bool
    ) -> "Finish | None":
        """Return it for the parameters of a block, None where compiled code does not run all of them.

        `norms`, `post` and `parallel` are those of `Feed`.
        """
        up, gate, down = (
            None if one is None else one.panels for one in (network.up, network.gate, network.down)
        )
        ours = native()
        if ours is None or up is None or down is None or (gate is None) != (network.gate is None):
            return None
        if network.activation not in ACTIVATIONS or not all(
            one is None or one.compiled for one in norms.values()
        ):
            return None
        feed = Feed(
            up=up,
            gate=gate,
            down=down,
            activation=network.activation,
            post=post,
            parallel=parallel,
            **norms,
        )
        return cls(ours, feed, residual)

    def __call__(self, x_ND: Tensor, z_ND: Tensor, points: Points | None = None) -> Steps[Tensor]:
        """Return y [N, d_model] of what entered the block and what attention gave; fill `points`."""
        y_ND = z_ND.new_empty(z_ND.shape)
        x, rows = x_ND if self.residual else None, z_ND.shape[0]
        if rows <= 2 * STEP_ROWS:
            self.ours.feed(self.network, x, z_ND, y_ND, points)
            return y_ND
        for start in range(0, rows, STEP_ROWS):
            if start:
                yield
            part = slice(start, start + STEP_ROWS)
            some = None if points is None else points.part(part)
            self.ours.feed(self.network, None if x is None else x[part], z_ND[part], y_ND[part], some)
        return y_ND


def in_row_steps(function: Callable[[Tensor], Tensor], x_ND: Tensor) -> Steps[Tensor]:
    """Return a function of every row of x, on a processor some of them at a time, a step each.

    A product over the rows of one long sequence takes a tenth of a second, for which nobody else should wait.
    """
    rows = x_ND.shape[0]
    if rows <= 2 * STEP_ROWS or x_ND.device.type != "cpu":
        return function(x_ND)
    first = function(x_ND[:STEP_ROWS])
    whole = first.new_empty(rows, *first.shape[1:])
    whole[:STEP_ROWS] = first
    for start in range(STEP_ROWS, rows, STEP_ROWS):
        yield
        whole[start : start + STEP_ROWS] = function(x_ND[start : start + STEP_ROWS])
    return whole
