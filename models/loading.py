"""From a model folder to cards that can be served: our own encoder where it is specified, else transformers.

Nothing is served before it has run: every layer of every card is tried once.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from models.capacity import require_room
from models.errors import SpecError
from models.examples import read_examples
from models.families import ModelFolder, PretrainedFolder, read_folder
from models.kernels import kernel_name
from models.native import native
from models.outputs import OUTPUTS, Need, Selection
from models.protocol import Answer, Failure, Item, ModelCard, Text, Tokens
from models.scores import Pause, go_on
from models.stack import Stack
from models.text import Tokenizer
from models.varlen import ragged_name
from models.weights import load_weights, weight_bytes

__all__ = ["Loaded", "build", "loaded"]

PROBE_TOKENS = 3
Inputs = tuple[Literal["embeddings", "token_ids", "text"], ...]


class Model(Protocol):
    """What runs a batch of Items of one model: a Stack, or a Tower."""

    def run(self, items: Sequence[Item], *, pause: Pause = go_on) -> list[Answer | Failure]:
        """Return one Answer or Failure an item, in order; `pause` may be called between parts."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a card's `handle` holds: the weights on the device, and the tokenizer."""

    model: Model
    tokenizer: Tokenizer | None

    def tokenize(self, text: str, pair: str | None, *, limit: int | None, truncate: bool) -> Text:
        """Return the tokens of a text; a tokenizer must be there."""
        assert self.tokenizer is not None
        return self.tokenizer.encode(text, pair, limit=limit, truncate=truncate)


def loaded(card: ModelCard) -> Loaded:
    """Return what a card made here holds."""
    assert isinstance(card.handle, Loaded)
    return card.handle


def build(
    name: str, version: str, folder: Path, *, dtype: torch.dtype, device: torch.device
) -> list[ModelCard]:
    """Return the cards of a model folder, the one called `name` first, its weights on the device.

    Raises SpecError for a folder that is broken, does not fit, or gives no numbers.
    """
    found = read_folder(folder)
    common: dict[str, Any] = {
        "version": version,
        "family": found.family,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "examples": read_examples(folder),
    }
    if isinstance(found, ModelFolder):
        cards = [_own(name, found, common, dtype=dtype, device=device)]
    else:
        cards = _foreign(name, found, common, dtype=dtype, device=device)
    with torch.inference_mode():
        for card in cards:
            _try(card)
    return cards


def _own(
    name: str, folder: ModelFolder, common: dict[str, Any], *, dtype: torch.dtype, device: torch.device
) -> ModelCard:
    """Build a specified model."""
    spec = folder.spec
    require_room(weight_bytes(folder.weights, naming=folder.naming, dtype=dtype), device, what=name)
    parameters = load_weights(folder.weights, spec, folder.naming, dtype=dtype)
    parameters = {key: tensor.to(device) for key, tensor in parameters.items()}
    resident = sum(tensor.nbytes for tensor in parameters.values())
    stack = Stack(spec, parameters, device, take=True)
    vocabulary = spec.embedding.vocabulary if spec.embedding else None
    tokenizer = _tokenizer(folder.tokenizer, vocabulary)
    return ModelCard(
        name=name,
        **common,
        layers=spec.layers,
        heads=spec.heads,
        key_heads=spec.key_heads,
        d_model=spec.d_model,
        d_input=None if spec.embedding_width == spec.d_model else spec.embedding_width,
        d_k=spec.key_width,
        d_v=spec.value_width,
        bytes_resident=resident,
        outputs=_offered({"block": not spec.blocks, "pooling": spec.pooling is None}),
        inputs=_accepted(vocabulary, tokenizer),
        max_tokens=spec.positions.max_positions,
        vocabulary=vocabulary,
        cross=folder.family == "heed",
        kernel=_kernels(stack, dtype, device),
        spec=spec.to_config(),
        handle=Loaded(stack, tokenizer),
    )


def _kernels(stack: Stack, dtype: torch.dtype, device: torch.device) -> str:
    """Return what runs the linears, then what runs attention."""
    spec, ragged = stack.spec, None
    if spec.key_width == spec.value_width:
        ragged = ragged_name(device, dtype, spec.key_width, spec.heads // spec.key_heads)
    linears = "+".join(sorted(stack.kernels)) or "torch"
    attention = ragged or kernel_name(device)
    if device.type == "cpu" and dtype == torch.float32 and native() is not None:
        attention = f"heed+{attention}"
    return f"{linears}, {attention}"


def _offered(lacks: dict[Need, bool]) -> tuple[str, ...]:
    """Return the outputs that need nothing which a model lacks; it is a model, and has what is not named."""
    return tuple(name for name, output in OUTPUTS.items() if not lacks.get(output.needs, False))


def _foreign(
    name: str, folder: PretrainedFolder, common: dict[str, Any], *, dtype: torch.dtype, device: torch.device
) -> list[ModelCard]:
    """Build a model through transformers: one card, or three for encoder, decoder and between the two."""
    require_room(weight_bytes(folder.weights, dtype=torch.float32), torch.device("cpu"), what=name)
    require_room(weight_bytes(folder.weights, dtype=dtype), device, what=name)
    # Here, for it takes seconds to import, and most servers need nothing of it.
    pretrained = importlib.import_module("models.pretrained")
    try:
        parts = pretrained.load(folder, dtype=dtype, device=device)
    except SpecError as problem:
        raise SpecError(f"{folder.reason}; through transformers: {problem}") from problem
    cards = []
    for part in parts:
        shape = part.shape
        tokenizer = _tokenizer(folder.tokenizer, part.vocabulary) if part.vocabulary else None
        lacks: dict[Need, bool] = {
            "entry": part.entry is None,
            "projection": shape.projections is None,
            "square": part.name == "cross",
            "pooling": folder.pooling is None,
        }
        cards.append(
            ModelCard(
                name=f"{name}.{part.name}" if part.name else name,
                **common,
                layers=part.tower.layers,
                heads=shape.call.heads,
                key_heads=shape.call.key_heads,
                d_model=shape.d_model,
                d_input=None if part.d_input == shape.d_model else part.d_input,
                d_k=shape.call.d_k,
                d_v=shape.call.d_v,
                bytes_resident=part.nbytes,
                outputs=tuple(
                    output for output in _offered(lacks) if output != "z" or not lacks["projection"]
                ),
                inputs=_accepted(part.vocabulary, tokenizer),
                max_tokens=part.max_tokens,
                vocabulary=part.vocabulary,
                cross=bool(part.name),
                part=part.name,
                kernel="transformers, packed" if part.tower.packs else "transformers, by length",
                spec=part.about,
                handle=Loaded(part.tower, tokenizer),
            )
        )
    return cards


def _tokenizer(file: Path | None, vocabulary: int | None) -> Tokenizer | None:
    return None if file is None else Tokenizer(file, vocabulary=vocabulary)


def _accepted(vocabulary: int | None, tokenizer: Tokenizer | None) -> Inputs:
    if vocabulary is None:
        return ("embeddings",)
    return ("embeddings", "token_ids") if tokenizer is None else ("embeddings", "token_ids", "text")


def _try(card: ModelCard) -> None:
    """Run every layer once: it warms the kernels, and a model that gives no numbers is refused."""
    chance = np.random.default_rng(0)

    def numbers(width: int) -> Any:
        return chance.standard_normal((PROBE_TOKENS, width), dtype=np.float32)

    memory = numbers(card.d_model) if card.part else None
    given = Tokens(embeddings=numbers(card.width), memory=memory)
    names = tuple(name for name in ("z", "weights") if name in card.outputs)
    chosen = Selection(outputs=names, layers=tuple(range(card.layers)), layer_axis=True)
    (answer,) = loaded(card).model.run([Item(card=card, input=given, selection=chosen)])
    if isinstance(answer, Failure):
        raise SpecError(f"the weights of {card.name} give numbers that are not finite")
