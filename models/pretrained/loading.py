"""Whole models of any architecture that `transformers` has, with this project's attention inside.

One function is registered in both of the library's interfaces, attention and masks. At load the calls to it
are counted and sequences are compared with transformers' own eager attention, layer by layer
(`probe.py`): an architecture that goes around the function is refused, and so is what cannot be run.
"""

import inspect
import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from models.attention.lengths import OutputLengths
from models.attention.sequence import InputSequence
from models.errors import SpecError
from models.folders.families import PretrainedFolder
from models.predictions.of_folder import Predictions
from models.pretrained.entry import collect_entry, looking_for_entry
from models.pretrained.interception import LazyMask, attend, current
from models.pretrained.probe import Shape, probe
from models.pretrained.probe_samples import Trial, probe_rows, unreached
from models.pretrained.tower import Tower, collect_z
from models.pretrained.weights import brief, encoder_alone, narrow, read_config, read_model
from models.pretrained.words import let_predict, read_words

NAME = "heed"
BY_BATCH = ('"dynamic"', '"longrope"')  # rotary positions whose angles depend on the longest of a batch
PIXELS = "pixel_values"
OTHER_WORDS = "words are not predicted of a part of an encoder-decoder model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One attention of a loaded model: `name` is "", or "decoder" or "cross" of an encoder-decoder model."""

    name: str
    tower: Tower
    shape: Shape
    vocabulary: int | None
    d_input: int
    max_tokens: int | None
    about: dict[str, Any]
    entry: nn.Module | None = None  # what reads the rows that enter the first layer, where it was found
    nbytes: int = 0  # of the whole model; 0 where another part has said so
    predicts: Predictions = field(default_factory=lambda: Predictions(None))


def _mask(
    batch_size: int, q_length: int, kv_length: int, *, mask_function: Any, use_vmap: bool = False, **more: Any
) -> Any:
    """Make the mask a model asks for: whole for sequences of equal length, one by one for packed ones."""
    now = current()
    if now is None or not now.packed:
        return sdpa_mask(
            batch_size, q_length, kv_length, mask_function=mask_function, use_vmap=use_vmap, **more
        )

    def of(sequence: InputSequence) -> Tensor:
        start, length = sequence.start, sequence.queries
        mask_BHTS = sdpa_mask(
            1,
            length,
            length,
            q_offset=start,
            kv_offset=start,
            mask_function=mask_function,
            allow_is_causal_skip=False,
            use_vmap=use_vmap,
            device=more.get("device", "cpu"),
        )
        assert mask_BHTS is not None
        return mask_BHTS[0, 0]

    return LazyMask(of)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _mask)
transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load(folder: PretrainedFolder, *, dtype: torch.dtype, device: torch.device) -> list[Part]:
    """Return the attentions of a model folder: one, or encoder's, decoder's and that between the two.

    It is probed in float32 on the CPU, whatever it is served in. Raises SpecError where transformers cannot
    read or run the folder, whatever it raises, where parameters are missing, or where the probe fails.
    """
    config = read_config(folder)
    try:
        model: Any = read_model(folder, config)
        _require_known_input(model)
        words = read_words(model, config, folder, asked=folder.predictions)
        parts = [_part(model, config, name, folder) for name in _part_names(config)]
    except (SpecError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as problem:  # somebody's code raises anything
        what = f"{type(config).__name__.removesuffix('Config')} of transformers {transformers.__version__}"
        raise SpecError(
            f"{what} cannot be run with the attention of this server: {brief(problem)}"
        ) from problem
    for part in parts:
        for module in set(part.shape.projections or ()):
            module.register_forward_hook(collect_z)
    for module in {part.entry for part in parts if part.entry is not None}:
        module.register_forward_pre_hook(collect_entry, with_kwargs=True)
    for part in parts:
        part.tower.dtype, part.tower.device = dtype, device
    narrow(model, dtype)
    model.to(device)
    if not isinstance(words, str):
        narrow(words.head, dtype)
        words.head.to(device)
    resident = sum(one.nbytes for one in model.parameters())
    return [
        replace(
            part,
            nbytes=0 if part.name else resident,
            predicts=let_predict(part.tower, OTHER_WORDS if part.name else words, d_model=part.shape.d_model),
        )
        for part in parts
    ]


def _part_names(config: Any) -> tuple[str, ...]:
    return ("", "decoder", "cross") if config.is_encoder_decoder and not encoder_alone(config) else ("",)


def _require_known_input(model: Any) -> None:
    """Raise SpecError for a model of anything but token ids, or images of which one module makes rows."""
    name, kind = getattr(model, "main_input_name", "input_ids"), type(model).__name__
    if name not in ("input_ids", "inputs_embeds", PIXELS):
        raise SpecError(
            f"{kind} reads {name}; only models of token ids, and of images as embedded patches, are served"
        )
    if name != PIXELS:
        return
    if getattr(model.config, "is_encoder_decoder", False):
        raise SpecError(
            f"{kind} is an image encoder with a decoder of text; only models of one kind are served"
        )
    if not isinstance(getattr(model, "embeddings", None), nn.Module):
        raise SpecError(f"{kind} is a model of pixels, which is served where its embeddings are one module; "
                        "this one's are not")  # fmt: skip
    if not isinstance(getattr(model.config, "hidden_size", None), int):
        raise SpecError(f"{kind} has no one hidden_size; only models of layers of equal width are served")


def _part(model: Any, config: Any, name: str, folder: PretrainedFolder) -> Part:
    """Build one part and probe it."""
    module = model
    if config.is_encoder_decoder:
        module = model.get_decoder() if name else model.get_encoder()
    pixels = getattr(model, "main_input_name", "") == PIXELS
    forward: Callable[..., Any] = _of_pixels(module) if pixels else module
    names = frozenset(inspect.signature(module.forward).parameters)
    table = None if pixels else _words(module)
    width = config.hidden_size if table is None else int(table.weight.shape[1])
    by_batch = any(word in json.dumps(config.to_dict(), default=str) for word in BY_BATCH)
    tower = Tower(
        forward=forward,
        parameters=names,
        device=torch.device("cpu"),
        dtype=torch.float32,
        layers=0,
        table=table,
        vocabulary=0 if table is None else int(table.weight.shape[0]),
        calls_per_layer=2 if name else 1,
        first_call=1 if name == "cross" else 0,
        types=_types(config) if "token_type_ids" in names else 0,
        lock=threading.RLock() if by_batch else nullcontext(),  # its modules remember the longest
    )
    linears = [one for one in module.modules() if isinstance(one, nn.Linear | Conv1D)]
    stated = None if pixels else _positions(config)
    far = unreached(config)
    trial = Trial(
        width=width,
        padding=_padding(config),
        special=_special(config, tower.vocabulary),
        rows=probe_rows(config, stated),
        positions=stated,
    )
    packs = "position_ids" in names and not by_batch and far is None
    with looking_for_entry(module) as found:
        shape = probe(tower, model.set_attn_implementation, linears, trial, packs=packs)
    tower.lengths = [_lengths(one, shape.call.heads) for one in shape.projections or ()]
    about = {
        "transformers": transformers.__version__,
        "class": type(model).__name__,
        "reason": folder.reason,
        "config": json.loads(json.dumps(config.to_dict(), default=str)),
    }
    if folder.notes:
        about["notes"] = list(folder.notes)
    if far is not None:
        about["batched"] = f"by length, for {far}, which may be a position, and no probe reaches it"
    return Part(
        name=name,
        tower=tower,
        shape=shape,
        vocabulary=tower.vocabulary or None,
        d_input=width,
        max_tokens=None if pixels else shape.positions,
        about=about,
        entry=found.module if found.width == shape.d_model else None,
    )


def _words(module: Any) -> Any:
    """Return the table of words of a stack; raise SpecError where it has none."""
    try:
        table = module.get_input_embeddings()
    except Exception as problem:
        raise SpecError(f"{type(module).__name__} has no table of words: {brief(problem)}") from problem
    weight = getattr(table, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise SpecError(f"{type(module).__name__} has no table of words; only models of token ids are served")
    return table


def _lengths(projection: Any, heads: int) -> OutputLengths:
    """Return how long an output projection makes values: a Conv1D keeps its weight the other way round."""
    turned = isinstance(projection, Conv1D)
    return OutputLengths(lambda: projection.weight.mT if turned else projection.weight, heads=heads)


def _of_pixels(model: Any) -> Callable[..., Any]:
    """Return a forward pass that takes embeddings where the model would make them of an image."""
    given: ContextVar[Tensor] = ContextVar("embeddings")  # of the pass that a thread is in

    def forward(inputs_embeds: Tensor, **options: Any) -> Any:
        token = given.set(inputs_embeds)
        try:
            return model(pixel_values=inputs_embeds.new_empty(1), **options)
        finally:
            given.reset(token)

    model.embeddings.forward = lambda *_, **__: given.get()
    return forward


def _positions(config: Any) -> int | None:
    """Return how many positions a configuration states; the probe looks for tables that have fewer."""
    stated = getattr(config, "max_position_embeddings", None)
    if not isinstance(stated, int):
        stated = getattr(config.get_text_config(), "max_position_embeddings", None)
    return stated if isinstance(stated, int) and stated > 0 else None


def _types(config: Any) -> int:
    rows = getattr(config, "type_vocab_size", None)
    return rows if isinstance(rows, int) and rows > 0 else 0


def _padding(config: Any) -> int | None:
    padding = getattr(config.get_text_config(), "pad_token_id", None)
    return padding if isinstance(padding, int) and padding >= 0 else None


def _special(config: Any, words: int) -> tuple[int, ...]:
    """Return the ids that a configuration names, such as mask_token_id, as far as they are words."""
    found = [
        value
        for name, value in config.get_text_config().to_dict().items()
        if name.endswith("_token_id") and isinstance(value, int) and 0 <= value < words
    ]
    return tuple(dict.fromkeys(sorted(found, key=lambda one: one != getattr(config, "mask_token_id", None))))
