"""Small models with random weights, made and saved by transformers, and what its eager attention says."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from models.protocol import Tokens

FOREIGN = {"a_field_that_no_table_reads": 1}  # of a configuration: transformers runs it, though it is native


def save_random(model_type: str, changes: dict[str, Any], name: str, folder: Path, *, seed: int = 7) -> Any:
    """Save a model of a class with random weights, attention far from uniform; return it, eager."""
    torch.manual_seed(seed)
    config = transformers.CONFIG_MAPPING[model_type](**changes)
    model = getattr(transformers, name)._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for label, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.add_(torch.randn_like(tensor) * 0.2)
            else:
                words = any(word in label for word in ("embed", "wte", "shared", "relative"))
                tensor.normal_(std=1.0 if words else 1.4 / tensor.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    return model


def eager_outputs(model: Any, given: Tokens, part: str) -> dict[str, np.ndarray]:
    """Return weights [L, H, T, S], hidden [L, T, D] and embedded [T, D] of one attention of a model."""
    arguments: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    if given.memory is not None:
        arguments["encoder_hidden_states"] = torch.from_numpy(given.memory)[None]
    if given.ids is not None:
        arguments["input_ids"] = torch.from_numpy(given.ids)[None]
    stack = bare(model, part)
    with torch.inference_mode():
        if given.embeddings is not None and stack.main_input_name == "pixel_values":
            out = of_patches(stack, torch.from_numpy(given.embeddings)[None], arguments)
        else:
            if given.embeddings is not None:
                arguments["inputs_embeds"] = torch.from_numpy(given.embeddings)[None]
            out = stack(**arguments)
    weights = out.cross_attentions if part == "cross" else out.attentions
    hidden = [*out.hidden_states[1:-1], out.last_hidden_state]
    made = {
        "weights": torch.cat(list(weights)),
        "hidden": torch.cat(hidden),
        "embedded": out.hidden_states[0][0],
    }
    return {name: tensor.numpy() for name, tensor in made.items()}


def bare(model: Any, part: str) -> Any:
    """Return the stack of layers without a head: the encoder or the decoder where there are both."""
    if part:
        return model.get_decoder()
    return model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def of_patches(model: Any, embedded: torch.Tensor, arguments: dict[str, Any]) -> Any:
    """Run a vision model on embedded patches: what its embedding gives is replaced on the way."""
    hook = model.embeddings.register_forward_hook(lambda *_: embedded)
    size = model.config.image_size
    try:
        return model(pixel_values=torch.zeros(1, 3, size, size), **arguments)
    finally:
        hook.remove()
