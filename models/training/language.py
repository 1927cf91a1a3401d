"""The small causal language model that `heed train` learns: the training-time forward of a ModelSpec.

The same parameters, by the same names, are served by `models/encoder/stack.py`; here sequences are padded to
[B, T] and everything is differentiable. A next-token head, `head.weight`, is used in training only.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.mlp import ACTIVATIONS
from models.encoder.positions import sinusoidal
from models.folders.parameters import optional_shapes, parameter_shapes
from models.spec import ModelSpec

Parameters = dict[str, Tensor]

EMBEDDING_DEVIATION = 0.5


def initial(spec: ModelSpec, *, seed: int) -> Parameters:
    """Return parameters to learn from, float32, the same for the same seed.

    Linear weights are normal with variance 1/in, those that write to a residual scaled down by the
    number of writers (GPT-2, section 2.3); norms are 1 and 0, biases 0.
    """
    generator = torch.Generator().manual_seed(seed)
    writers = 2 * spec.layers if spec.residual else 1
    parameters: Parameters = {}
    for name, shape in (parameter_shapes(spec) | optional_shapes(spec)).items():
        if len(shape) == 1:
            value = torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)
        else:
            deviation = EMBEDDING_DEVIATION if name.startswith("embedding.") else 1 / math.sqrt(shape[1])
            if name.endswith(("output.weight", "down.weight")):
                deviation /= math.sqrt(writers)
            value = torch.randn(shape, generator=generator) * deviation
        parameters[name] = value
    return parameters


def logits(spec: ModelSpec, parameters: Parameters, ids_BT: Tensor) -> Tensor:
    """Return the next token's logits [B, T, vocabulary] after each token of `ids_BT`, int64 [B, T]."""
    T = ids_BT.shape[1]
    x_BTD = F.embedding(ids_BT, parameters["embedding.tokens.weight"])
    if spec.positions.kind == "learned":
        x_BTD = x_BTD + parameters["embedding.positions.weight"][:T]
    else:
        x_BTD = x_BTD + sinusoidal(T, spec.d_model).to(x_BTD.device)
    for layer in range(spec.layers):
        x_BTD = _block(spec, parameters, f"layers.{layer}", x_BTD)
    if spec.norm.final:
        x_BTD = _norm(spec, parameters, "final_norm", x_BTD)
    return F.linear(x_BTD, parameters["head.weight"])


def _block(spec: ModelSpec, parameters: Parameters, name: str, x_BTD: Tensor) -> Tensor:
    """Return one block's output: bare attention, or pre-norm attention and feed-forward with residuals."""
    if spec.norm.kind == "none":
        return _attend(spec, parameters, f"{name}.attention", x_BTD)
    x_BTD = x_BTD + _attend(
        spec, parameters, f"{name}.attention", _norm(spec, parameters, f"{name}.attention_norm", x_BTD)
    )
    if spec.feed_forward is None:
        return x_BTD
    up = _linear(
        parameters, f"{name}.feed_forward.up", _norm(spec, parameters, f"{name}.feed_forward_norm", x_BTD)
    )
    return x_BTD + _linear(
        parameters, f"{name}.feed_forward.down", ACTIVATIONS[spec.feed_forward.activation](up)
    )


def _attend(spec: ModelSpec, parameters: Parameters, name: str, x_BTD: Tensor) -> Tensor:
    """Return z [B, T, d_model] of causal multi-head attention ("Attention Is All You Need", 3.2)."""
    B, T, _ = x_BTD.shape

    def heads(which: str) -> Tensor:
        made = _linear(parameters, f"{name}.{which}", x_BTD)
        return made.view(B, T, spec.heads, -1).transpose(1, 2)

    z_BHTV = F.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), is_causal=True)
    return _linear(parameters, f"{name}.output", z_BHTV.transpose(1, 2).flatten(2))


def _linear(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    return F.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _norm(spec: ModelSpec, parameters: Parameters, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(
        x, (spec.d_model,), parameters[f"{name}.weight"], parameters[f"{name}.bias"], spec.norm.eps
    )
