"""A BERT sentence encoder as an ONNX graph, made of its safetensors: [B, T] ids to [B, D] pooled.

`common`: operators of ONNX itself, which OpenVINO fuses as it likes. `fused`: onnxruntime's own operators for
attention, skipped norms and GELU, as its optimizer for transformers leaves them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

OPSET = 20  # the first with Gelu
MICROSOFT = "com.microsoft"
HIDDEN_KEY = -1e9


@dataclass
class Graph:
    """Nodes and constants so far; `config` and `weights` are the model folder's."""

    config: dict
    weights: dict[str, np.ndarray]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, value: object) -> str:
        """Keep a constant, float32 or int64; return its name."""
        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, name: str) -> str:
        """Keep one tensor of the folder; return its name."""
        return self.constant(self.weights[name])

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Add a node of one output; return that."""
        out = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], domain=domain, **attributes))
        return out

    def linear(self, x: str, *names: str) -> str:
        """Add x·Wᵀ + b of one layer, or of several side by side."""
        weight = np.concatenate([self.weights[f"{name}.weight"] for name in names]).T
        bias = np.concatenate([self.weights[f"{name}.bias"] for name in names])
        return self.node("Add", self.node("MatMul", x, self.constant(weight)), self.constant(bias))

    def normed_sum(self, x: str, y: str, bias: str, norm: str, *, fused: bool) -> str:
        """Add the layer norm of x + y + bias; y without its bias."""
        scale, shift, eps = (
            self.weight(f"{norm}.weight"),
            self.weight(f"{norm}.bias"),
            self.config["layer_norm_eps"],
        )
        if fused:
            own = {"domain": MICROSOFT, "epsilon": eps}
            return self.node("SkipLayerNormalization", y, x, scale, shift, self.weight(bias), **own)
        total = self.node("Add", self.node("Add", y, self.weight(bias)), x)
        return self.node("LayerNormalization", total, scale, shift, epsilon=eps)

    def product(self, x: str, name: str) -> str:
        """Add x·Wᵀ."""
        return self.node("MatMul", x, self.constant(self.weights[f"{name}.weight"].T))


def embedded(graph: Graph) -> str:
    """Add words, positions and the first token type, normalised."""
    at = "embeddings"
    places = graph.weights[f"{at}.position_embeddings.weight"]
    places = graph.constant(places + graph.weights[f"{at}.token_type_embeddings.weight"][0])
    length = graph.node("Slice", graph.node("Shape", "ids"), *map(graph.constant, ([1], [2])))
    words = graph.node("Gather", graph.weight(f"{at}.word_embeddings.weight"), "ids")
    total = graph.node("Add", words, graph.node("Slice", places, graph.constant([0]), length))
    norm = (graph.weight(f"{at}.LayerNorm.weight"), graph.weight(f"{at}.LayerNorm.bias"))
    return graph.node("LayerNormalization", total, *norm, epsilon=graph.config["layer_norm_eps"])


def attention(graph: Graph, x: str, at: str, hidden_keys: str) -> str:
    """Add softmax(scale·QKᵀ + hidden keys)·V of all heads, side by side."""
    d_model, heads = graph.config["hidden_size"], graph.config["num_attention_heads"]
    shape = graph.constant([0, 0, heads, d_model // heads])
    three = []
    for which, axes in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
        rows = graph.node("Reshape", graph.linear(x, f"{at}.{which}"), shape)
        three.append(graph.node("Transpose", rows, perm=axes))
    q, k, v = three
    scale = graph.constant((d_model // heads) ** -0.5)
    scores = graph.node("Add", graph.node("Mul", graph.node("MatMul", q, k), scale), hidden_keys)
    z = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), v)
    rows = graph.node("Transpose", z, perm=(0, 2, 1, 3))
    return graph.node("Reshape", rows, graph.constant([0, 0, d_model]))


def fused_attention(graph: Graph, x: str, at: str) -> str:
    """Add onnxruntime's operator from x to z; `mask` is 1 where a key may be attended."""
    names = [f"{at}.{which}" for which in ("query", "key", "value")]
    weight = np.concatenate([graph.weights[f"{name}.weight"] for name in names]).T
    bias = np.concatenate([graph.weights[f"{name}.bias"] for name in names])
    inputs = (x, graph.constant(weight), graph.constant(bias), "mask32")
    return graph.node("Attention", *inputs, domain=MICROSOFT, num_heads=graph.config["num_attention_heads"])


def pooled(graph: Graph, x: str) -> str:
    """Add the mean over tokens that are not padding, and bring it to length 1."""
    mask = graph.node("Unsqueeze", graph.node("Cast", "mask", to=TensorProto.FLOAT), graph.constant([2]))
    total = graph.node("ReduceSum", graph.node("Mul", x, mask), graph.constant([1]), keepdims=0)
    mean = graph.node("Div", total, graph.node("ReduceSum", mask, graph.constant([1]), keepdims=0))
    return graph.node("Div", mean, graph.node("ReduceL2", mean, graph.constant([1]), keepdims=1))


def bert(folder: Path, *, fused: bool) -> onnx.ModelProto:
    """Return the whole graph of a model folder."""
    graph = Graph(json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors"))
    x = embedded(graph)
    if fused:
        graph.nodes.append(helper.make_node("Cast", ["mask"], ["mask32"], to=TensorProto.INT32))
        hidden_keys = ""
    else:
        away = graph.node("Sub", graph.constant(1.0), graph.node("Cast", "mask", to=TensorProto.FLOAT))
        away = graph.node("Mul", away, graph.constant(HIDDEN_KEY))
        hidden_keys = graph.node("Unsqueeze", away, graph.constant([1, 2]))
    for layer in range(graph.config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        own, out = f"{at}.attention.self", f"{at}.attention.output"
        z = fused_attention(graph, x, own) if fused else attention(graph, x, own, hidden_keys)
        y = graph.product(z, f"{out}.dense")
        x = graph.normed_sum(x, y, f"{out}.dense.bias", f"{out}.LayerNorm", fused=fused)
        if fused:
            up, bias = graph.product(x, f"{at}.intermediate.dense"), f"{at}.intermediate.dense.bias"
            hidden = graph.node("BiasGelu", up, graph.weight(bias), domain=MICROSOFT)
        else:
            hidden = graph.node("Gelu", graph.linear(x, f"{at}.intermediate.dense"))
        y = graph.product(hidden, f"{at}.output.dense")
        x = graph.normed_sum(x, y, f"{at}.output.dense.bias", f"{at}.output.LayerNorm", fused=fused)
    graph.nodes.append(helper.make_node("Identity", [pooled(graph, x)], ["pooled"]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("ids", "mask")
    ]
    out = [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", graph.config["hidden_size"]])]
    whole = helper.make_graph(graph.nodes, "bert", inputs, out, graph.constants)
    domains = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(MICROSOFT, 1)] * fused
    return helper.make_model(whole, opset_imports=domains, ir_version=10)
