"""Readers of single fields of a Hugging Face `config.json`, with transformers' defaults and older spellings.

Each is a function of the parsed configuration; the tables of `huggingface.py` are made of them.
An absent field has its default; a null one is null, as in transformers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from models.config import LARGEST, shown
from models.errors import SpecError
from models.mechanism import BY_KEY
from models.spec import MOST_LAYERS

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


class Noted(Mapping[str, Any]):
    """A configuration that notes which of its fields were read."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._config[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)


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
    if type(value) is not int or not least <= value <= LARGEST:
        raise SpecError(f"{name} is {shown(value)}; it must be a whole number, {least} to {LARGEST}")
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


def causal(config: Config) -> bool:
    """Return `is_causal`, by which transformers 5 makes any causal family look both ways; null is false."""
    return bool(config.get("is_causal", True))


def window(config: Config, default: int | None = None) -> int | None:
    """Return `sliding_window` as keys to the left of the query: transformers counts the query's own too."""
    if config.get("sliding_window", default) is None:
        return None
    return whole(config, "sliding_window", default, least=1) - 1


def _by_distance(config: Config) -> bool:
    return config.get("position_embedding_type") in BY_KEY


def position_kind(config: Config) -> str:
    """Return BERT's kind of positions: a table, or distances, which transformers 5 has dropped."""
    return str(config["position_embedding_type"]) if _by_distance(config) else "learned"


def padding(config: Config) -> int | None:
    """Return the token that has no position in RoBERTa: its number is also the row that it reads instead."""
    return None if _by_distance(config) else whole(config, "pad_token_id", 1)


def first_position(config: Config) -> int:
    """Return the row of the first position: RoBERTa counts from the one after the padding token's."""
    row = padding(config)
    return 0 if row is None else row + 1


def positions_after(config: Config, first: int) -> int:
    """Return how many positions the table has from its row `first` on."""
    return whole(config, "max_position_embeddings", 512) - first


def causal_of_bert(config: Config) -> Any:
    """Return whether a BERT is causal: as a decoder, unless the configuration says that it is not."""
    decodes = Key("is_decoder", default=False)(config)
    return decodes if decodes is not True else causal(config)


def groups_of_albert(config: Config) -> list[int]:
    """Return which parameters each layer has: those of its group, of groups that are equally long."""
    layers = min(whole(config, "num_hidden_layers", 12), MOST_LAYERS)
    groups = whole(config, "num_hidden_groups", 1, least=1)
    return [int(layer / (layers / groups)) for layer in range(layers)]


def left_window(default: int | None) -> Reader:
    """Return a reader of keys to the left of a query, in all layers: one more where it is not causal."""

    def read(config: Config) -> int | None:
        width = window(config, default)
        return width if width is None or causal(config) else width + 1

    return read


def right_window(default: int | None) -> Reader:
    """Return a reader of keys to the right of a query: as many as to the left, none where it is causal."""
    return lambda config: None if causal(config) else left_window(default)(config)


def gemma_activation(config: Config) -> str:
    """Return the tanh approximation where an old Gemma file says gelu: that is what was meant."""
    name = Activation("hidden_act", "gelu_pytorch_tanh")(config)
    return "gelu_tanh" if name == "gelu" else name


def final_norm_of_opt(config: Config) -> bool:
    """Return whether a norm follows OPT's last block: where norms come first, but in its first files."""
    removed = bool(config.get("_remove_final_layer_norm", False))
    return bool(config.get("do_layer_norm_before", True)) and not removed


def word_width_of_opt(config: Config) -> None:
    """Refuse OPT's narrower word embeddings: positions are added after they are widened."""
    width = config.get("word_embed_proj_dim")
    if width is not None and width != Key("hidden_size")(config):
        raise SpecError(f"word_embed_proj_dim is {shown(width)}; only that of hidden_size is supported")
