"""Any ModelSpec in float64 numpy, written the slow way: one sequence, one query and one key at a time.

Follows the specification's words, not the code under test; a parameter dictionary has the canonical names.
"""

import math
from collections.abc import Mapping

import numpy as np

from models.folders.parameters import parameter_shapes
from models.mechanism import AttentionSpec
from models.spec import ModelSpec

Array = np.ndarray


def random_parameters(spec: ModelSpec, seed: int = 0) -> dict[str, Array]:
    """Return float32 parameters of a specification, scaled so that numbers keep their size."""
    chance = np.random.default_rng(seed)
    parameters = {}
    for name, shape in parameter_shapes(spec).items():
        noise = chance.standard_normal(shape) / math.sqrt(shape[-1] if len(shape) > 1 else 4)
        if name.endswith("norm.weight") or "_norm" in name.split(".")[-2]:
            noise = noise * 0.2 + (0 if spec.norm.unit_offset or name.endswith("bias") else 1)
        parameters[name] = noise.astype(np.float32)
    return parameters


def act(name: str, x: Array) -> Array:
    if name == "gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))
    if name == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "relu":
        return np.maximum(x, 0)
    if name == "silu":
        return x / (1 + np.exp(-x))
    raise AssertionError(name)


class SlowStack:
    """Runs one sequence: `run` returns z, weights and hidden of every layer.

    `head_z` [H, T, d_v] and `values` [H_kv, S, d_v] of every layer are kept of the latest run.
    """

    def __init__(self, spec: ModelSpec, parameters: Mapping[str, Array]) -> None:
        self.spec = spec
        self.p = {name: value.astype(np.float64) for name, value in parameters.items()}
        self.head_z: list[Array] = []
        self.values: list[Array] = []

    def run(
        self, embeddings: Array, memory: Array | None = None, mask: Array | None = None
    ) -> tuple[list[Array], list[Array], list[Array]]:
        x = self.embed(embeddings.astype(np.float64))
        zs, hiddens, weights = [], [], []
        self.head_z, self.values = [], []
        for layer in range(self.spec.layers):
            x, z, a = self.block(layer, x, memory, mask)
            zs.append(z)
            weights.append(a)
            last = layer == self.spec.layers - 1 and self.spec.norm.final
            hiddens.append(self.norm(x, "final_norm") if last else x)
        return zs, weights, hiddens

    def embed(self, x: Array) -> Array:
        spec = self.spec
        if spec.embedding is not None and spec.embedding.types:
            x = x + self.p["embedding.types.weight"][0]
        if spec.positions.rows:
            x = x + self.p["embedding.positions.weight"][spec.positions.offset :][: len(x)]
        elif spec.positions.kind == "sinusoidal":
            width = x.shape[1]
            for p in range(len(x)):
                for i in range(0, width, 2):
                    angle = p / 10000 ** (i / width)
                    x[p, i] += math.sin(angle)
                    x[p, i + 1] += math.cos(angle)
        if spec.embedding is not None and spec.embedding.norm:
            x = self.norm(x, "embedding.norm", rms=False)
        return self.linear(x, "embedding.widen") if "embedding.widen.weight" in self.p else x

    def block(
        self, layer: int, x: Array, memory: Array | None, mask: Array | None
    ) -> tuple[Array, Array, Array]:
        spec, name = self.spec, f"layers.{self.spec.parameters_of(layer)}"
        normed = spec.norm.kind != "none"
        first = normed and spec.norm.placement != "post"
        skipped = spec.norm.skip_first and layer == 0
        read = self.norm(x, f"{name}.attention_norm") if first and not skipped else x
        z, weights = self.attention(layer, read, memory, mask)
        around = normed and spec.norm.placement == "sandwich"
        after = self.norm(z, f"{name}.attention_norm_after") if around else z
        if spec.parallel:
            fed = self.feed_forward(name, self.norm(x, f"{name}.feed_forward_norm") if normed else x)
            return x + after + fed, z, weights
        y = x + after if spec.residual else after
        if normed and spec.norm.placement == "post":
            y = self.norm(y, f"{name}.attention_norm")
        if spec.feed_forward is not None:
            fed = self.feed_forward(name, self.norm(y, f"{name}.feed_forward_norm") if first else y)
            fed = self.norm(fed, f"{name}.feed_forward_norm_after") if around else fed
            y = y + fed if spec.residual else fed
            if normed and spec.norm.placement == "post":
                y = self.norm(y, f"{name}.feed_forward_norm")
        return y, z, weights

    def attention(
        self, layer: int, x: Array, memory: Array | None, mask: Array | None
    ) -> tuple[Array, Array]:
        spec, name = self.spec, f"layers.{self.spec.parameters_of(layer)}.attention"
        source = x if memory is None else memory.astype(np.float64)
        q = self.heads(self.projected(f"{name}.query", spec.projection.query, x), spec.heads)
        k = self.heads(self.projected(f"{name}.key", spec.projection.key, source), spec.key_heads)
        v = k
        if spec.projection.value != "key":
            v = self.heads(self.projected(f"{name}.value", spec.projection.value, source), spec.key_heads)
        if spec.projection.qk_norm != "none":
            rms = spec.projection.qk_norm == "rms"
            q = self.norm(q, f"{name}.query_norm", rms=rms)
            k = self.norm(k, f"{name}.key_norm", rms=rms)
        if spec.positions.kind == "rotary":
            longest = max(len(x), len(source))
            q, k = self.rotary(layer, q, longest), self.rotary(layer, k, longest)
        rule, group = spec.attention_of(layer), spec.heads // spec.key_heads
        weights = np.zeros((spec.heads, len(x), len(source)))
        z = np.zeros((len(x), spec.heads, spec.value_width))
        for h in range(spec.heads):
            for i in range(len(x)):
                scores = [
                    self.score(rule, q[i, h], k[j, h // group], h, i, j, mask) for j in range(len(source))
                ]
                top = max(scores)
                if top > -math.inf:
                    row = np.exp(np.array(scores) - top)
                    weights[h, i] = row / row.sum()
                z[i, h] = weights[h, i] @ v[:, h // group]
                if rule.add_self and i < len(source):
                    z[i, h] += v[i, h // group]
        self.head_z.append(z.transpose(1, 0, 2))
        self.values.append(v.transpose(1, 0, 2))
        flat = z.reshape(len(x), -1)
        return (self.linear(flat, f"{name}.output") if spec.projection.output == "linear" else flat), weights

    def output_norms(self, layer: int, weights: Array) -> Array:
        """Return ‖weight_ij · v_j · W_O^h‖ [H, T, S], every vector by itself."""
        width, group = self.spec.value_width, self.spec.heads // self.spec.key_heads
        matrix = np.eye(self.spec.d_model)
        if self.spec.projection.output == "linear":
            matrix = self.p[f"layers.{self.spec.parameters_of(layer)}.attention.output.weight"]
        norms = np.zeros_like(weights)
        for h, i, j in np.ndindex(weights.shape):
            given = weights[h, i, j] * self.values[layer][h // group, j]
            norms[h, i, j] = np.linalg.norm(matrix[:, h * width : (h + 1) * width] @ given)
        return norms

    def score(
        self, rule: AttentionSpec, q: Array, k: Array, h: int, i: int, j: int, mask: Array | None
    ) -> float:
        away = j - (i + rule.causal_offset)
        hidden = (
            (rule.causal and away > 0)
            or (rule.exclude_self and away == 0)
            or (rule.left_window is not None and -away > rule.left_window)
            or (rule.right_window is not None and away > rule.right_window)
            or (mask is not None and not (mask[j] if mask.ndim == 1 else mask[i, j]))
        )
        if hidden:
            return -math.inf
        if rule.similarity == "cosine":
            q, k = q / (np.linalg.norm(q) or 1), k / (np.linalg.norm(k) or 1)
        score = float(q @ k) * rule.scale_for(len(q))
        if rule.softcap is not None:
            score = rule.softcap * math.tanh(score / rule.softcap)
        return score + self.position_bias(h, i, j)

    def position_bias(self, h: int, i: int, j: int) -> float:
        at = self.spec.positions
        if at.kind == "alibi":
            assert self.spec.heads & (self.spec.heads - 1) == 0, "powers of two only"
            return -(2.0 ** (-8 * (h + 1) / self.spec.heads)) * abs(i - j)
        if at.kind == "relative":
            return float(self.p["positions.bias.weight"][self.bucket(j - i), h])
        return 0.0

    def bucket(self, distance: int) -> int:
        at = self.spec.positions
        buckets, first = at.buckets, 0
        if at.bidirectional:
            buckets //= 2
            first = buckets if distance > 0 else 0
            far = abs(distance)
        else:
            far = max(-distance, 0)
        exact = buckets // 2
        if far < exact:
            return first + far
        ratio = math.log(far / exact) / math.log(at.max_distance / exact)
        return first + min(exact + int(ratio * (buckets - exact) + 1e-6), buckets - 1)

    def rotary(self, layer: int, x: Array, longest: int) -> Array:
        """Return x turned: plainly, or stretched as `linear` and `longrope` are."""
        at, turned = self.spec.positions, int(x.shape[-1] * self.spec.positions.rotary_fraction)
        theta, scaling = self.spec.rotary_of(layer).theta, self.spec.rotary_of(layer).scaling
        out = x.copy()
        for p in range(len(x)):
            for pair in range(turned // 2):
                a, b = (2 * pair, 2 * pair + 1) if at.interleaved else (pair, pair + turned // 2)
                angle = p / theta ** (2 * pair / turned)
                if scaling is not None and scaling.kind == "linear":
                    angle /= scaling.factor
                elif scaling is not None:
                    assert scaling.kind == "longrope"
                    long = longest > (scaling.original_positions or 0)
                    angle /= (scaling.long_factors if long else scaling.short_factors)[pair]
                out[p, :, a] = x[p, :, a] * math.cos(angle) - x[p, :, b] * math.sin(angle)
                out[p, :, b] = x[p, :, b] * math.cos(angle) + x[p, :, a] * math.sin(angle)
        if scaling is not None:
            out[..., :turned] *= scaling.magnitude
        return out

    def heads(self, x: Array, count: int) -> Array:
        return x.reshape(len(x), count, -1)

    def projected(self, name: str, kind: str, x: Array) -> Array:
        if kind == "identity":
            return x
        if kind == "linear":
            return self.linear(x, name)
        inner = act(self.spec.projection.activation, self.linear(x, f"{name}.up"))
        return self.linear(inner, f"{name}.down")

    def feed_forward(self, name: str, x: Array) -> Array:
        spec = self.spec.feed_forward
        assert spec is not None
        up = self.linear(x, f"{name}.feed_forward.up")
        if spec.kind == "gated":
            inner = act(spec.activation, self.linear(x, f"{name}.feed_forward.gate")) * up
        else:
            inner = act(spec.activation, up)
        return self.linear(inner, f"{name}.feed_forward.down")

    def linear(self, x: Array, name: str) -> Array:
        return x @ self.p[f"{name}.weight"].T + self.p.get(f"{name}.bias", 0.0)

    def norm(self, x: Array, name: str, rms: bool | None = None) -> Array:
        rms = self.spec.norm.kind == "rms" if rms is None else rms
        weight = self.p[f"{name}.weight"] + (1 if self.spec.norm.unit_offset else 0)
        centred = x if rms else x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.spec.norm.eps)
        return normed * weight + self.p.get(f"{name}.bias", 0.0)
