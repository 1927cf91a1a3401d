"""One file that training can be taken up from: named tensors and a JSON state, safetensors, never pickle.

Written whole or not at all: beside its place first, then moved there. A digest in the header covers the
state and every tensor, so a damaged file is refused rather than trained on.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from models.errors import SpecError


def save(path: Path, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and a JSON-able state, in place of what was there."""
    written = json.dumps(state)
    metadata = {"state": written, "sha256": _digest(tensors, written)}
    replace_tensors(path, tensors, metadata)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `save` wrote; raise SpecError when the file is damaged or not a checkpoint."""
    remedy = "delete it to start afresh, or put back a copy"
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
    except (SafetensorError, OSError) as error:
        raise SpecError(f"the checkpoint {path.name} cannot be read ({error}); {remedy}") from error
    if "state" not in metadata or "sha256" not in metadata:
        raise SpecError(f"{path.name} is not a checkpoint of heed train; {remedy}")
    if metadata["sha256"] != _digest(tensors, metadata["state"]):
        raise SpecError(f"the checkpoint {path.name} is damaged: its SHA-256 differs; {remedy}")
    state: dict[str, Any] = json.loads(metadata["state"])
    return tensors, state


def replace_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Put a safetensors file in place of what was at `path`."""
    plain = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    # `save_file` would make a file that only its owner may read.
    _replace(path, serialize(plain, dict(metadata)))


def replace_text(path: Path, text: str) -> None:
    """Put a text file in place of what was at `path`."""
    _replace(path, text.encode())


def _replace(path: Path, content: bytes) -> None:
    """Write beside `path`, then move there in one step: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    """Return the SHA-256 of the state and of every name, shape, dtype and byte, in the order of names."""
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
