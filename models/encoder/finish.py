"""What a block does after its attention as one call of compiled code: residuals, norms, feed-forward.

The same as `Block.finish` operator by operator, within a rounding: with each of them the interpreter's lock
is given back and taken again, and every row comes from memory once more. Which of the two runs depends on
the model alone, so that a row's bits do not depend on what it is computed beside.
"""

from dataclasses import dataclass

from torch import Tensor

from models.compiled.native import ACTIVATIONS, Native, native
from models.compiled.panels import Feed
from models.device.steps import Steps
from models.encoder.mlp import Perceptron
from models.encoder.norm import Norm

__all__ = ["PART_ROWS", "Finish"]

PART_ROWS = 1024  # d_model 768 → 2304 on two cores: 17 ms


@dataclass(frozen=True, slots=True)
class Finish:
    """y = s + FFN(n) of s = x + z, n = norm(s), or, `post`, y = norm(s + FFN(s)) of s = norm(x + z).

    Without `residual` neither sum has its first part; without norms they are left out.
    """

    library: Native
    network: Feed
    first: Norm | None
    last: Norm | None
    post: bool
    residual: bool

    @classmethod
    def of(
        cls, network: Perceptron, first: Norm | None, last: Norm | None, *, post: bool, residual: bool
    ) -> "Finish | None":
        """Return it for the parameters of a block, None where compiled code does not run all of them.

        `first`, `last`: the norms of s and, where the block normalises its sums, of y.
        """
        panels = [None if one is None else one.panels for one in (network.up, network.gate, network.down)]
        up, gate, down = panels
        ours = native()
        if ours is None or up is None or down is None or (gate is None) != (network.gate is None):
            return None
        if network.activation not in ACTIVATIONS or not all(
            one is None or one.compiled for one in (first, last)
        ):
            return None
        feed = Feed(up=up, gate=gate, down=down, activation=network.activation)
        if any(one is not None and one.width != down.out for one in (first, last)):
            raise ValueError(f"a norm of rows of {down.out} numbers has another number of weights")
        return cls(ours, feed, first, last, post=post, residual=residual)

    def __call__(self, x_ND: Tensor, z_ND: Tensor) -> Steps[Tensor]:
        """Return y [N, d_model] of what entered the block and what attention gave."""
        y_ND = z_ND.new_empty(z_ND.shape)
        rows = z_ND.shape[0]
        step = PART_ROWS if rows > 2 * PART_ROWS else max(1, rows)
        for start in range(0, rows, step):
            if start:
                yield
            part = slice(start, start + step)
            x = x_ND[part] if self.residual else None
            self.library.feed(self.network, x, z_ND[part], y_ND[part], self.first, self.last, post=self.post)
        return y_ND
