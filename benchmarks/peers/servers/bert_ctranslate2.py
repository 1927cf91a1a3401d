"""A BERT model folder as CTranslate2 keeps it, as its own converter would write it, which needs torch."""

import json
from pathlib import Path

import numpy as np
from ctranslate2.converters import utils
from ctranslate2.specs import common_spec, transformer_spec
from safetensors.numpy import load_file


def convert(folder: Path, to: Path) -> None:
    """Write float32 weights, which are quantized when they are loaded."""
    config = json.loads((folder / "config.json").read_text())
    weights = {
        name: np.ascontiguousarray(one) for name, one in load_file(folder / "model.safetensors").items()
    }
    encoder = transformer_spec.TransformerEncoderSpec(
        config["num_hidden_layers"],
        config["num_attention_heads"],
        pre_norm=False,
        activation=common_spec.Activation.GELU,
        layernorm_embedding=True,
        num_source_embeddings=1,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    spec = transformer_spec.TransformerEncoderModelSpec(encoder)
    encoder.scale_embeddings = False
    at = "embeddings"
    # The first token type is in every position: its table need not be read.
    places = weights[f"{at}.position_embeddings.weight"] + weights[f"{at}.token_type_embeddings.weight"][0]
    encoder.embeddings[0].weight = weights[f"{at}.word_embeddings.weight"]
    encoder.position_encodings.encodings = places

    def linear(to: common_spec.LinearSpec, name: str) -> common_spec.LinearSpec:
        to.weight, to.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return to

    def norm(to: common_spec.LayerNormSpec, name: str) -> None:
        to.gamma, to.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]

    norm(encoder.layernorm_embedding, f"{at}.LayerNorm")
    for number, layer in enumerate(encoder.layer):
        at = f"encoder.layer.{number}"
        three = [
            linear(common_spec.LinearSpec(), f"{at}.attention.self.{which}")
            for which in ("query", "key", "value")
        ]
        utils.fuse_linear(layer.self_attention.linear[0], three)
        linear(layer.self_attention.linear[1], f"{at}.attention.output.dense")
        norm(layer.self_attention.layer_norm, f"{at}.attention.output.LayerNorm")
        linear(layer.ffn.linear_0, f"{at}.intermediate.dense")
        linear(layer.ffn.linear_1, f"{at}.output.dense")
        norm(layer.ffn.layer_norm, f"{at}.output.LayerNorm")
    spec.register_vocabulary((folder / "vocab.txt").read_text().splitlines())
    spec.config.layer_norm_epsilon = config["layer_norm_eps"]
    spec.config.unk_token = "[UNK]"
    spec.validate()
    to.mkdir(parents=True)
    spec.save(str(to))
