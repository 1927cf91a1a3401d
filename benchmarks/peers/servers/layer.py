"""The layer that every peer serves: one fused QKV product, attention, W_O, with oneDNN's prepacked linears.

The fastest that torch has, within a few per cent of Heed's own: what is compared is the serving. Run by the
peers' own interpreters: nothing but numpy and torch is imported.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HEADS = 12
BIGGEST = 512  # tokens of the sequence that warms the kernels


class Layer:
    """One attention layer; its weights are read from an `.npz` file."""

    def __init__(self, file: Path, *, threads: int) -> None:
        torch.set_num_threads(threads)
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        arrays = {name.split(".", 2)[2]: torch.from_numpy(array) for name, array in np.load(file).items()}
        parts = [f"attention.{which}" for which in ("query", "key", "value")]
        self.d_model = arrays["attention.query.weight"].shape[1]
        self.qkv = _Packed(
            torch.cat([arrays[f"{part}.weight"] for part in parts]),
            torch.cat([arrays[f"{part}.bias"] for part in parts]),
        )
        self.out = _Packed(arrays["attention.output.weight"], arrays["attention.output.bias"])
        self.attend([np.zeros((BIGGEST, self.d_model), dtype=np.float32)])

    def attend(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Return z [T, d_model] for each of some sequences [T, d_model]: linears over all rows at once."""
        with torch.inference_mode():
            tensors = [torch.from_numpy(x) for x in inputs]
            lengths = [len(x) for x in tensors]
            rows = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
            qkv = self.qkv(rows).view(len(rows), 3, HEADS, -1)
            contexts = []
            for own in qkv.split(lengths):
                q, k, v = own.permute(1, 2, 0, 3)
                context = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
                contexts.append(context.transpose(0, 1).reshape(-1, self.d_model))
            z = self.out(contexts[0] if len(contexts) == 1 else torch.cat(contexts))
            return [own.numpy() for own in z.split(lengths)]


class _Packed:
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001 - the fastest there is
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # noqa: SLF001
