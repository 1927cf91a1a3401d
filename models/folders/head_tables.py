"""Weights of every head of a model out of tensors: AT2's estimators, and the contact heads of protein models.

And how many layers and heads a folder's model has, by its parts, so that a set is checked before it is kept.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.config import read_json, shown
from models.errors import SpecError
from models.folders.families import ModelFolder, PretrainedFolder
from models.folders.tensor_file import open_tensors
from models.heads.reading import Sizes
from models.regular_files import open_file

LINEAR = ("linear.weight", "linear.bias")  # of AT2's LinearScoreEstimator
CONTACT = "contact_head.regression."  # of ESM, before weight and bias
LARGEST_ESTIMATOR = 64 << 20  # bytes

# What configurations call layers and heads of a model, or of its encoder, and of its decoder.
NAMES = {
    "": (
        ("encoder_layers", "num_encoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        (
            "encoder_attention_heads",
            "num_encoder_attention_heads",
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "attention_heads",
        ),
    ),
    "decoder": (
        ("decoder_layers", "num_decoder_layers", "num_layers"),
        ("decoder_attention_heads", "num_decoder_attention_heads", "num_heads"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTable:
    """A weight for every head of a model, layer after layer, [L·H]; then what is added to their sum."""

    name: str
    source: str
    weights: NDArray[np.float32]
    bias: float
    contacts: bool = False  # whether of maps made symmetric and corrected, without [CLS] and [EOS]


def read_estimator(path: Path) -> HeadTable:
    """Return the linear estimator in a torch file of AT2's; nothing in it is run. Raises SpecError."""
    with open_file(path) as file:
        if (size := path.stat().st_size) > LARGEST_ESTIMATOR:
            raise SpecError(
                f"{path.name} has {size} bytes; the limit for weights of heads is {LARGEST_ESTIMATOR}"
            )
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as problem:
            raise SpecError(
                f"{path.name} is no torch file of tensors and plain values alone, and nothing else is read"
            ) from problem
    state = saved.get("state_dict", saved) if isinstance(saved, dict) else {}
    weight, bias = (state.get(name) if isinstance(state, dict) else None for name in LINEAR)
    if not isinstance(weight, torch.Tensor):
        raise SpecError(f"{path.name} has no {LINEAR[0]}, which AT2's linear estimator has")
    return HeadTable(
        name="at2",
        source="AT2, arXiv:2504.13752",
        weights=_flat(weight, path.name),
        bias=float(bias) if isinstance(bias, torch.Tensor) and bias.numel() == 1 else 0.0,
    )


def read_contact_head(path: Path) -> HeadTable:
    """Return the contact head among a model's weights, a safetensors file or an index; raises SpecError."""
    names = [path]
    if path.suffix == ".json":
        shards = read_json(path).get("weight_map", {})
        files = {str(file) for name, file in shards.items() if CONTACT in name}
        names = [path.parent / Path(file).name for file in sorted(files)]
    found: dict[str, torch.Tensor] = {}
    for file in names:
        with open_tensors(file) as tensors:
            found |= {
                name.rpartition(".")[2]: tensors.read(name) for name in tensors.stored if CONTACT in name
            }
    if "weight" not in found:
        raise SpecError(f"{path.name} has no {CONTACT}weight, which a protein model with a contact head has")
    bias = found.get("bias")
    return HeadTable(
        name="contacts",
        source="the model's own contact head",
        weights=_flat(found["weight"], path.name),
        bias=0.0 if bias is None else float(bias),
        contacts=True,
    )


def sizes_of(found: ModelFolder | PretrainedFolder) -> Sizes:
    """Return layers and heads of a folder's model, by its parts; raises SpecError where nothing says so."""
    if isinstance(found, ModelFolder):
        return {"": (found.spec.layers, found.spec.heads)}
    return _sizes_of_foreign(found)


def _sizes_of_foreign(found: PretrainedFolder) -> Sizes:
    config = read_json(found.folder / "config.json")
    config = config.get("text_config", config)
    parts = {"": NAMES[""]}
    if config.get("is_encoder_decoder"):
        parts |= {"decoder": NAMES["decoder"], "cross": NAMES["decoder"]}
    return {
        part: (_number(config, layers), _number(config, heads)) for part, (layers, heads) in parts.items()
    }


def _number(config: dict[str, Any], names: tuple[str, ...]) -> int:
    for name in names:
        if type(value := config.get(name)) is int and value > 0:
            return value
    raise SpecError(f"config.json does not say how large the model is: it has none of {', '.join(names)}")


def _flat(weight: torch.Tensor, where: str) -> NDArray[np.float32]:
    """Return the weights of one output, [1, N] or [N], as float32 [N]."""
    if weight.ndim not in (1, 2) or weight.numel() != weight.shape[-1] or not weight.is_floating_point():
        raise SpecError(f"{shown(where)} has weights of shape {list(weight.shape)}; they must be [1, L·H]")
    numbers: NDArray[np.float32] = weight.detach().reshape(-1).to(torch.float32).numpy()
    return numbers
