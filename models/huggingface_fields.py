"""Readers of single fields of a Hugging Face `config.json`, with transformers' defaults and older spellings.

Each is a function of the parsed configuration; the tables of `models/huggingface.py` are made of them.
An absent field has its default; a null one is null, as in transformers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.config import shown
from models.errors import SpecError
from models.spec import MOST_LAYERS

__all__ = ["REQUIRED", "Activation", "Config", "Key", "head_width", "key_heads", "rotary", "whole", "windows"]

Config = Mapping[str, Any]
Reader = Callable[[Config], Any]
REQUIRED: Any = object()

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",  # transformers writes this one approximation in five ways
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A field, or its default where absent."""

    name: str
    default: Any = REQUIRED

    def __call__(self, config: Config) -> Any:
        """Return the field's value; raise SpecError when it is absent and has no default."""
        value = config.get(self.name, self.default)
        if value is REQUIRED:
            raise SpecError(f"config.json has no {self.name}; model_type {config['model_type']} needs it")
        return value


@dataclass(frozen=True, slots=True)
class Activation:
    """A field that names an activation as transformers' ACT2FN does; the name is translated."""

    name: str
    default: str

    def __call__(self, config: Config) -> str:
        """Return the activation's name in a specification."""
        value = config.get(self.name, self.default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise SpecError(f"{self.name} is {shown(value)}; supported: {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]


def whole(config: Config, name: str, default: Any = REQUIRED, *, least: int = 0) -> int:
    """Return a whole number that is computed with; raise SpecError for any other value."""
    value = Key(name, default)(config)
    if type(value) is not int or value < least:
        raise SpecError(f"{name} is {shown(value)}; it must be a whole number, {least} or more")
    return value


def head_width(default: int | None) -> Reader:
    """Return a reader of `head_dim`: absent it is `default`, null (or no default) hidden_size over heads."""

    def read(config: Config) -> Any:
        value = config.get("head_dim", default)
        if value is not None:
            return value
        return whole(config, "hidden_size") // whole(config, "num_attention_heads", least=1)

    return read


def key_heads(default: int | None) -> Reader:
    """Return a reader of `num_key_value_heads`: absent it is `default`, null the number of query heads."""

    def read(config: Config) -> Any:
        value = config.get("num_key_value_heads", default)
        return Key("num_attention_heads")(config) if value is None else value

    return read


def rotary(name: str, *older: str, default: float) -> Reader:
    """Return a reader of one rotary parameter, as transformers v5 writes it or as older releases did.

    The reader raises SpecError for scaled rotary positions, which a specification cannot represent.
    """

    def read(config: Config) -> Any:
        stated = config.get("rope_scaling") or config.get("rope_parameters") or {}
        if not isinstance(stated, dict) or any(isinstance(value, dict) for value in stated.values()):
            raise SpecError("rotary parameters that differ from layer to layer are not supported")
        kind = stated.get("rope_type", stated.get("type", "default"))
        if kind != "default":
            raise SpecError(f"rotary positions of type {shown(kind)} are not supported; only 'default' is")
        found = [stated.get(name), *(config.get(old) for old in (name, *older))]
        return next((value for value in found if value is not None), default)

    return read


def windows(*, default: int | None, slides: Callable[[Config, int], bool], switch: str = "") -> Reader:
    """Return a reader of each layer's left window: from `layer_types`, else where `slides(config, layer)`.

    A window of n keys in transformers counts the query's own. `switch` names a field that must be true.
    """

    def read(config: Config) -> list[int | None] | None:
        count = whole(config, "num_hidden_layers")
        kinds = config.get("layer_types")
        off = bool(switch) and config.get(switch, False) is not True
        width = None if off or config.get("sliding_window", default) is None else window(config, default)
        if kinds is None:
            sliding = [
                width is not None and slides(config, layer) for layer in range(min(count, MOST_LAYERS))
            ]
        elif isinstance(kinds, list) and all(kind in LAYER_KINDS for kind in kinds):
            sliding = [kind == LAYER_KINDS[0] for kind in kinds]
        else:
            raise SpecError(f"layer_types must be a list of {' and '.join(LAYER_KINDS[:2])}")
        if any(sliding) and width is None:
            raise SpecError("layer_types has sliding_attention, but there is no sliding_window")
        return [width if slid else None for slid in sliding] if any(sliding) else None

    return read


LAYER_KINDS = ("sliding_attention", "full_attention", "attention")


def window(config: Config, default: int | None = None) -> int | None:
    """Return `sliding_window` as keys to the left of the query: transformers counts the query's own too."""
    if config.get("sliding_window", default) is None:
        return None
    return whole(config, "sliding_window", default, least=1) - 1
