"""BERT in float64 numpy, written the slow way: one sequence, one head, one query at a time."""

import json
from math import erf
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

Array = np.ndarray


class SlowBert:
    """Reads a Hugging Face BERT folder and follows Devlin et al. 2019 word by word."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.eps = config["layer_norm_eps"]
        self.tensors = {
            name: tensor.astype(np.float64)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }

    def run(self, ids: Array) -> tuple[list[Array], list[Array], list[Array]]:
        """Return hidden [T, D], weights [H, T, T] and z [T, D] of every layer."""
        embeddings = self.tensors["embeddings.word_embeddings.weight"][ids]
        return self.run_embeddings(embeddings)

    def run_embeddings(self, embeddings: Array) -> tuple[list[Array], list[Array], list[Array]]:
        x = embeddings + self.tensors["embeddings.position_embeddings.weight"][: len(embeddings)]
        x = x + self.tensors["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        hidden, weights, contextual = [], [], []
        for layer in range(self.layers):
            name = f"encoder.layer.{layer}"
            a, z = self._attention(x, f"{name}.attention")
            x = self._norm(x + z, f"{name}.attention.output.LayerNorm")
            inner = self._linear(x, f"{name}.intermediate.dense")
            inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
            x = self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
            hidden.append(x)
            weights.append(a)
            contextual.append(z)
        return hidden, weights, contextual

    def _attention(self, x: Array, name: str) -> tuple[Array, Array]:
        q, k, v = (self._linear(x, f"{name}.self.{which}") for which in ("query", "key", "value"))
        width = x.shape[1] // self.heads
        weights = np.zeros((self.heads, len(x), len(x)))
        z = np.zeros_like(x)
        for head in range(self.heads):
            own = slice(head * width, (head + 1) * width)
            for i in range(len(x)):
                scores = np.array([q[i, own] @ k[j, own] for j in range(len(x))]) / np.sqrt(width)
                row = np.exp(scores - scores.max())
                weights[head, i] = row / row.sum()
                z[i, own] = weights[head, i] @ v[:, own]
        return weights, self._linear(z, f"{name}.output.dense")

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        return normed * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]
