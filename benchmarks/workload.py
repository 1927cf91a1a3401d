"""The work every benchmark does: one attention layer d_model 768, 12 heads, and ragged sequences.

Deterministic, so that a server, a peer and bare torch are given the same numbers.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import save, save_file

from models.spec import ModelSpec

D_MODEL = 768
HEADS = 12
BODIES = 16
SENTENCES = 16  # in one request
FEWEST_WORDS = 4  # of what counts as a sentence
WORDS = Path(__file__).parents[1] / "LICENSE"


@dataclass(frozen=True, slots=True)
class Body:
    """One request body: its media type, its bytes, extra headers."""

    content_type: str
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()


def layer_weights(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return W_Q, W_K, W_V, W_O [768, 768] and biases [768] by their canonical names."""
    chance = np.random.default_rng(seed)
    weights = {}
    for which in ("query", "key", "value", "output"):
        matrix = chance.standard_normal((D_MODEL, D_MODEL)) / np.sqrt(D_MODEL)
        weights[f"layers.0.attention.{which}.weight"] = matrix.astype(np.float32)
        weights[f"layers.0.attention.{which}.bias"] = chance.standard_normal(D_MODEL).astype(np.float32)
    return weights


def write_layer(folder: Path) -> None:
    """Write the layer as a Heed model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = ModelSpec(d_model=D_MODEL, heads=HEADS)
    (folder / "config.json").write_text(json.dumps(spec.to_config()))
    save_file(layer_weights(), folder / "model.safetensors")


def sequences(shortest: int, longest: int, count: int = BODIES, seed: int = 1) -> list[NDArray[np.float32]]:
    """Return `count` sequences [T, 768], T uniform in shortest..longest."""
    chance = np.random.default_rng(seed)
    lengths = chance.integers(shortest, longest + 1, size=count)
    return [chance.standard_normal((length, D_MODEL), dtype=np.float32) for length in lengths]


def sentences(shortest: int, longest: int, count: int = BODIES * SENTENCES, seed: int = 2) -> list[str]:
    """Return `count` pieces of real English, the licence's, of shortest..longest words, uniformly."""
    words = WORDS.read_text().split()
    chance = np.random.default_rng(seed)
    lengths = chance.integers(shortest, longest + 1, size=count)
    starts = [chance.integers(len(words) - length) for length in lengths]
    return [" ".join(words[at : at + length]) for at, length in zip(starts, lengths, strict=True)]


def whole_sentences(count: int) -> list[str]:
    """Return whole sentences of real English as they stand, of the reference that Python brings along."""
    paragraphs = (re.sub(r"\s+", " ", one).strip() for one in "\n\n".join(topics.values()).split("\n\n"))
    found = (one for paragraph in paragraphs for one in re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph))
    plain = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()-]+[.!?]")
    whole = [one for one in found if plain.fullmatch(one) and len(one.split()) >= FEWEST_WORDS]
    return list(dict.fromkeys(whole))[:count]


def bodies(kind: str, inputs: list[NDArray[np.float32]], outputs: tuple[str, ...] = ("z",)) -> list[Body]:
    """Return one request a sequence as `json`, `safetensors` or `oip` (binary tensors both ways)."""
    return [_body(kind, x, outputs) for x in inputs]


def _body(kind: str, x: NDArray[np.float32], outputs: tuple[str, ...]) -> Body:
    if kind == "json":
        # Shortest float32 digits, as every careful client writes them.
        envelope = {"inputs": [{"embeddings": x}], "outputs": outputs}
        return Body("application/json", orjson.dumps(envelope, option=orjson.OPT_SERIALIZE_NUMPY))
    if kind == "safetensors":
        accept = (("Accept", "application/x-safetensors"),)  # else the reply would be JSON
        return Body("application/x-safetensors", save({"0.embeddings": x}), accept)
    head = {
        "inputs": [
            {
                "name": "embeddings",
                "shape": list(x.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": x.nbytes},
            }
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    start = json.dumps(head).encode()
    length = (("Inference-Header-Content-Length", str(len(start))),)
    return Body("application/octet-stream", start + x.tobytes(), length)
