"""What is done to a block's rows before the table of words reads them."""

from collections.abc import Callable, Mapping

from torch import Tensor

from models.encoder.mlp import ACTIVATIONS, linear
from models.encoder.norm import Norm
from models.pooling_spec import PredictionSpec
from models.spec import NormSpec


class Head:
    """The final norm, where the model has one; then a linear layer, an activation and a norm, where it has.

    All layers go through the same: of one that is not the last, that is the logit lens (nostalgebraist,
    "interpreting GPT: the logit lens", 2020).
    """

    def __init__(
        self,
        spec: PredictionSpec,
        parameters: Mapping[str, Tensor],
        final: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self._final = final
        self._activation = None if spec.activation is None else ACTIVATIONS[spec.activation]
        self._dense = self._norm = None
        if self._activation is not None:
            self._dense = linear(parameters, "head.dense")
            of_head = NormSpec(kind="layer", eps=spec.eps, bias=spec.norm_bias)
            self._norm = Norm(parameters, "head.norm", of_head)

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Return what the table reads, of rows that a block gave."""
        if self._final is not None:
            x_ND = self._final(x_ND)
        if self._dense is None or self._norm is None or self._activation is None:
            return x_ND
        return self._norm(self._activation(self._dense(x_ND)))

    @property
    def nbytes(self) -> int:
        """Bytes of its own parameters."""
        if self._dense is None or self._norm is None:
            return 0
        norm = (self._norm.weight, self._norm.bias)
        return self._dense.nbytes + sum(one.nbytes for one in norm if one is not None)
