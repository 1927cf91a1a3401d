"""From a model folder to cards that can be served: our own encoder where it is specified, else transformers.

Nothing is served before it has run: every layer of every card is tried once.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from models.device.capacity import require_room
from models.device.steps import AtYield, Steps
from models.edit import VERBS
from models.encoder.calibration import calibration, try_layers
from models.encoder.dtypes import DTYPES, require_dtype
from models.encoder.pooling import Pooling, pooling_of
from models.encoder.stack import Stack
from models.errors import SpecError, TextError
from models.folders.families import NO_TABLE, ModelFolder, PretrainedFolder, read_folder
from models.folders.predictions import plan_predictions
from models.folders.sentence_files import SentenceFiles
from models.folders.text_limits import text_limit
from models.folders.weights import load_weights, weight_bytes
from models.heads.reading import read_head_sets
from models.outputs import OUTPUTS, Need
from models.pooling_spec import PooledCard
from models.predictions.of_folder import give_predictions
from models.protocol import Answers, Item, ModelCard
from models.text.examples import read_examples
from models.text.safe import NotATokenizer
from models.text.tokenizer import Tokenizer

INSIDE: dict[Need, bool] = {"inside": True, "network": True}  # what is not known of others' code
Inputs = tuple[Literal["embeddings", "token_ids", "text"], ...]


class Model(Protocol):
    """What runs a batch of Items of one model: a Stack, or a Tower."""

    def run(self, items: Sequence[Item], at_yield: AtYield = lambda: None) -> Answers:
        """Return one Answer or Failure an item, in order; `at_yield` is called at every yield point."""

    def steps(self, items: Sequence[Item]) -> Steps[Answers]:
        """Return the same in steps, between which another batch may run."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a card's `handle` holds: the weights on the device, and the tokenizer."""

    model: Model
    tokenizer: Tokenizer | None


def loaded(card: ModelCard) -> Loaded:
    """Return what a card made here holds."""
    assert isinstance(card.handle, Loaded)
    return card.handle


def build(
    name: str, version: str, folder: Path, *, dtype: str, device: torch.device, predictions: bool = False
) -> list[ModelCard]:
    """Return the cards of a model folder, the one called `name` first, its weights on the device.

    `predictions`: an output table of its own is loaded, as if the folder said so.

    Raises SpecError for a folder that is broken, does not fit, or gives no numbers.
    """
    require_dtype(dtype, device)
    found = read_folder(folder)
    found = replace(found, predictions=found.predictions or predictions)
    # On a processor our own models compute in float32, whatever their weights are kept in.
    widened = isinstance(found, ModelFolder) and device.type == "cpu"
    computed_in = "float32" if widened else dtype
    common: dict[str, Any] = {
        "version": version,
        "family": found.family,
        "dtype": dtype,
        "device": str(device),
        "computed_in": computed_in,
        "examples": read_examples(folder),
    }
    if isinstance(found, ModelFolder):
        cards = [_own(name, found, common, dtype=dtype, device=device)]
    elif dtype == "int8":
        raise SpecError(
            f"{name} runs through transformers' code ({found.reason}), which has no products of int8; give "
            f"it another dtype, MODELS={name}:bfloat16"
        )
    else:
        cards = _foreign(name, found, common, dtype=DTYPES[dtype], device=device)
    sets = read_head_sets(folder, {card.part: (card.layers, card.heads) for card in cards})
    cards = [replace(card, head_sets=sets[card.part]) for card in cards]
    with torch.inference_mode():
        for card in cards:
            try_layers(card, loaded(card).model.run)
    return cards


def _own(
    name: str, folder: ModelFolder, common: dict[str, Any], *, dtype: str, device: torch.device
) -> ModelCard:
    """Build a specified model."""
    spec, kept = folder.spec, DTYPES.get(dtype)  # of int8 None: as they are stored, until they are calibrated
    # On a processor everything but products is computed in float32, so what is no matrix stays as it is.
    others = torch.float32 if device.type == "cpu" else None
    plan = plan_predictions(folder.weights, spec, folder.naming, asked=folder.predictions)
    needed = weight_bytes(folder.weights, naming=folder.naming, dtype=kept, others=others)
    needed += 0 if isinstance(plan, str) else plan.nbytes(dtype=kept, others=others)
    require_room(needed, device, what=name)
    parameters = load_weights(folder.weights, spec, folder.naming, dtype=kept, others=others)
    parameters = {key: tensor.to(device) for key, tensor in parameters.items()}
    resident = sum(tensor.nbytes for tensor in parameters.values())
    narrow = kept or torch.bfloat16
    pooling, sentence = pooling_of(folder.sentence, spec.pooling, dtype=narrow, device=device)
    spec = spec if pooling or spec.pooling is None else replace(spec, pooling=None)
    stack = Stack(spec, parameters, device, pooling=pooling, take=True)
    predicts = give_predictions(stack, plan, dtype=kept, others=others)
    vocabulary = spec.embedding.vocabulary if spec.embedding else None
    tokenizer, no_text = _tokenizer(folder, vocabulary)
    card = ModelCard(
        name=name,
        **common,
        layers=spec.layers,
        heads=spec.heads,
        key_heads=spec.key_heads,
        d_model=spec.d_model,
        d_input=None if spec.embedding_width == spec.d_model else spec.embedding_width,
        d_k=spec.key_width,
        d_v=spec.value_width,
        bytes_resident=resident + predicts.nbytes + (pooling.nbytes if pooling else 0),
        outputs=_offered(
            {
                "block": not spec.blocks,
                "inside": not spec.blocks,
                "network": spec.feed_forward is None,
                "pooling": spec.pooling is None,
                "words": predicts.card is None,
            }
        ),
        inputs=_accepted(vocabulary, tokenizer),
        max_tokens=spec.positions.max_positions,
        vocabulary=vocabulary,
        types=spec.embedding.types if spec.embedding else 0,
        cross=folder.family == "heed",
        kernel=stack.kernel,
        spec=spec.to_config(),
        edits=VERBS,
        predictions=predicts.card,
        **_said(sentence, pooling, tokenizer, folder, no_text, predicts.not_offered, d_model=spec.d_model),
        **text_limit(folder, tokenizer, spec.positions.max_positions),
        handle=Loaded(stack, tokenizer),
    )
    if dtype != "int8":
        return card
    with torch.inference_mode():
        saved = stack.quantize(calibration(card, tokenizer)) + predicts.quantize()
    return replace(card, bytes_resident=card.bytes_resident - saved, kernel=stack.kernel)


def _offered(lacks: dict[Need, bool]) -> tuple[str, ...]:
    """Return the outputs that need nothing which a model lacks; it is a model, and has what is not named."""
    return tuple(name for name, output in OUTPUTS.items() if not lacks.get(output.needs, False))


def _offered_through(part: Any, pooling: Pooling | None) -> tuple[str, ...]:
    """Return the outputs of a part of a model of another library's."""
    lacks: dict[Need, bool] = INSIDE | {
        "words": part.predicts.card is None,
        "entry": part.entry is None,
        "projection": part.shape.projections is None,
        "square": part.name == "cross",
        "pooling": pooling is None,
    }
    return tuple(output for output in _offered(lacks) if output != "z" or not lacks["projection"])


def _foreign(
    name: str, folder: PretrainedFolder, common: dict[str, Any], *, dtype: torch.dtype, device: torch.device
) -> list[ModelCard]:
    """Build a model through transformers: one card, or three for encoder, decoder and between the two."""
    require_room(weight_bytes(folder.weights, dtype=torch.float32), torch.device("cpu"), what=name)
    require_room(weight_bytes(folder.weights, dtype=dtype), device, what=name)
    # Here, for it takes seconds to import, and most servers need nothing of it.
    pretrained = importlib.import_module("models.pretrained.loading")
    try:
        parts = pretrained.load(folder, dtype=dtype, device=device)
    except SpecError as problem:
        raise SpecError(f"{folder.reason}; through transformers: {problem}") from problem
    cards = []
    for part in parts:
        shape = part.shape
        sentence = folder.sentence.fitting(shape.d_model)
        if part.name:
            sentence = sentence.without_pooling("texts are pooled by the encoder")
        pooling, sentence = pooling_of(sentence, sentence.pooling, dtype=dtype, device=device)
        part.tower.pooling = pooling
        tokenizer, no_text = (None, NO_TABLE)
        if part.vocabulary:
            tokenizer, no_text = _tokenizer(folder, part.vocabulary)
        lacking = part.predicts.not_offered | part.tower.no_edits
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
                bytes_resident=part.nbytes + part.predicts.nbytes + (pooling.nbytes if pooling else 0),
                outputs=_offered_through(part, pooling),
                inputs=_accepted(part.vocabulary, tokenizer, embeddings=part.tower.embeds),
                max_tokens=part.max_tokens,
                vocabulary=part.vocabulary,
                types=part.tower.types,
                cross=bool(part.name),
                part=part.name,
                kernel=part.tower.kernel(shape.call),
                spec=part.about,
                predictions=part.predicts.card,
                edits=part.tower.edits,
                **_said(sentence, pooling, tokenizer, folder, no_text, lacking, d_model=shape.d_model),
                **text_limit(folder, tokenizer, part.max_tokens),
                handle=Loaded(part.tower, tokenizer),
            )
        )
    return cards


def _said(
    sentence: SentenceFiles,
    pooling: Pooling | None,
    tokenizer: Tokenizer | None,
    folder: ModelFolder | PretrainedFolder,
    no_text: str,
    not_offered: dict[str, str],
    *,
    d_model: int,
) -> dict[str, Any]:
    """Return the fields of a card that tell what the folder says of whole texts, and what is not offered."""
    told = [*folder.notes, *sentence.notes, *(tokenizer.notes if tokenizer else ())]
    not_offered = dict(not_offered)
    if tokenizer is None:
        not_offered["text"] = no_text
        told += [f"text is not offered: {no_text}"] if folder.tokenizer is not None else []
    if pooling is None:
        not_offered["pooled"] = sentence.reason
    said: dict[str, Any] = {"notes": tuple(dict.fromkeys(told)), "not_offered": not_offered}
    if tokenizer is not None:
        said["text_ms"] = tokenizer.milliseconds()
    if pooling is not None:
        said["pooled"] = PooledCard(
            width=pooling.spec.out_width(d_model),
            pooling=pooling.spec.told(),
            normalized=pooling.spec.normalized,
            prompts=dict(sentence.prompts),
            default_prompt=sentence.default_prompt,
            include_prompt=pooling.spec.include_prompt,
            cut=sentence.cut,
            dimensions=sentence.dimensions,
            truncate_dim=sentence.truncate_dim,
            spans=pooling.spec.of_spans,
        )
    return said


def _tokenizer(
    folder: ModelFolder | PretrainedFolder, vocabulary: int | None
) -> tuple[Tokenizer | None, str]:
    """Return the tokenizer, or why there is none; raise TextError for a file that is broken."""
    if folder.tokenizer is None:
        return None, folder.no_text
    try:
        return Tokenizer(folder.tokenizer, vocabulary=vocabulary), ""
    except NotATokenizer:
        raise
    except TextError as problem:
        return None, str(problem)


def _accepted(vocabulary: int | None, tokenizer: Tokenizer | None, *, embeddings: bool = True) -> Inputs:
    if vocabulary is None:
        return ("embeddings",)
    of_rows: Inputs = ("embeddings",) if embeddings else ()
    return (*of_rows, "token_ids") if tokenizer is None else (*of_rows, "token_ids", "text")
