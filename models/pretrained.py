"""Whole models of any architecture that `transformers` has, with this project's attention inside.

The only module that imports transformers. One function is registered in both of its interfaces, attention
and masks. At load the calls to it are counted and a short sequence is compared with transformers' own eager
attention, layer by layer (`models/probe.py`): an architecture that goes around the function is refused.
"""

import inspect
import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from models.config import read_json
from models.entry import collect_entry, looking_for_entry
from models.errors import SpecError
from models.families import PretrainedFolder
from models.interception import Lane, LazyMask, attend, current
from models.lengths import OutputLengths
from models.probe import Shape, probe
from models.spec import MOST_LAYERS
from models.tower import Tower, collect_z
from models.weights import weight_bytes

__all__ = ["Part", "load"]

NAME = "heed"
SPARE = "pooler."  # parameters that no output reads: they may be missing from a file
BY_BATCH = ('"dynamic"', '"longrope"')  # rotary positions whose angles depend on the longest of a batch


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


def _mask(
    batch_size: int, q_length: int, kv_length: int, *, mask_function: Any, use_vmap: bool = False, **more: Any
) -> Any:
    """Make the mask a model asks for: whole for sequences of equal length, one by one for packed ones."""
    now = current()
    if now is None or not now.packed:
        return sdpa_mask(
            batch_size, q_length, kv_length, mask_function=mask_function, use_vmap=use_vmap, **more
        )

    def of(lane: Lane) -> Tensor:
        start, length = lane.rows.start, lane.rows.stop - lane.rows.start
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
    read the folder, where parameters are missing, or where the probe fails.
    """
    config = _config(folder)
    model = _model(folder, config)
    parts = [_part(model, config, name, folder) for name in _part_names(config)]
    for part in parts:
        for module in set(part.shape.projections or ()):
            module.register_forward_hook(collect_z)
    for module in {part.entry for part in parts if part.entry is not None}:
        module.register_forward_pre_hook(collect_entry, with_kwargs=True)
    for part in parts:
        part.tower.dtype, part.tower.device = dtype, device
    _narrow(model, dtype)
    model.to(device)
    resident = sum(one.nbytes for one in model.parameters())
    return [replace(part, nbytes=0 if part.name else resident) for part in parts]


def _config(folder: PretrainedFolder) -> Any:
    for name, value in read_json(folder.folder / "config.json").items():
        if "layer" in name and isinstance(value, int) and value > MOST_LAYERS:  # some are lists in a moment
            raise SpecError(f"{name} is {value}; the limit is {MOST_LAYERS}")
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as problem:  # transformers raises whatever comes
        raise SpecError(f"transformers cannot read config.json: {_brief(problem)}") from problem
    return config


def _model(folder: PretrainedFolder, config: Any) -> nn.Module:
    """Return the model with all its parameters from the file, in float32."""
    cls = _class(config)
    stored = weight_bytes(folder.weights, dtype=torch.float32)
    try:
        with torch.device("meta"):
            empty = cls._from_config(config)  # what AutoModel.from_config calls
        needed = sum(4 * one.numel() for name, one in empty.named_parameters() if not name.startswith(SPARE))
    except Exception as problem:
        raise SpecError(f"transformers cannot build {cls.__name__}: {_brief(problem)}") from problem
    if needed > stored:  # else transformers would make up the rest, of any size
        raise SpecError(f"{cls.__name__} has {needed} bytes of parameters in float32, the file {stored}")
    try:
        model, found = cls.from_pretrained(
            folder.folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as problem:
        raise SpecError(f"transformers cannot load the weights: {_brief(problem)}") from problem
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(SPARE))
    if missing or found["mismatched_keys"]:
        wrong = ", ".join([*missing, *(str(one[0]) for one in found["mismatched_keys"])][:5])
        raise SpecError(f"the file does not hold all of {cls.__name__}: {wrong} missing or misshapen")
    for name, tensor in model.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise SpecError(f"{name} holds numbers that are not finite; the file is damaged")
    return model.eval().requires_grad_(requires_grad=False)  # type: ignore[no-any-return]


def _class(config: Any) -> Any:
    """Return the bare class of an architecture: the one that saved the folder, if it was bare."""
    saved = (getattr(config, "architectures", None) or [""])[0]
    named = getattr(transformers, saved, None) if saved.endswith("Model") else None
    if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
        return named
    if type(config) not in transformers.MODEL_MAPPING:
        raise SpecError(f"transformers has no model for {type(config).__name__}")
    found = transformers.MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple | list) else found


def _part_names(config: Any) -> tuple[str, ...]:
    encoder_only = (getattr(config, "architectures", None) or [""])[0].endswith("EncoderModel")
    return ("", "decoder", "cross") if config.is_encoder_decoder and not encoder_only else ("",)


def _part(model: Any, config: Any, name: str, folder: PretrainedFolder) -> Part:
    """Build one part and probe it."""
    module = model
    if config.is_encoder_decoder:
        module = model.get_decoder() if name else model.get_encoder()
    pixels = getattr(model, "main_input_name", "") == "pixel_values"
    forward: Callable[..., Any] = _of_pixels(module) if pixels else module
    names = frozenset(inspect.signature(module.forward).parameters)
    table = None if pixels else module.get_input_embeddings()
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
        pooling=folder.pooling,
        calls_per_layer=2 if name else 1,
        first_call=1 if name == "cross" else 0,
        packs="position_ids" in names and not by_batch,
        turn=threading.RLock() if by_batch else nullcontext(),  # its modules remember the longest
    )
    linears = [one for one in module.modules() if isinstance(one, nn.Linear | Conv1D)]
    window = getattr(config, "sliding_window", None) or getattr(config, "local_attention", None)
    with looking_for_entry(module) as found:
        shape = probe(
            tower,
            model.set_attn_implementation,
            linears,
            width=width,
            window=window if isinstance(window, int) else None,
            padding=getattr(config, "pad_token_id", None),
        )
    tower.lengths = [_lengths(one, shape.call.heads) for one in shape.projections or ()]
    return Part(
        name=name,
        tower=tower,
        shape=shape,
        vocabulary=tower.vocabulary or None,
        d_input=width,
        max_tokens=None if pixels else _positions(module, config),
        about={
            "transformers": transformers.__version__,
            "class": type(model).__name__,
            "reason": folder.reason,
            "config": json.loads(json.dumps(config.to_dict(), default=str)),
        },
        entry=found.module if found.width == shape.d_model else None,
    )


def _lengths(projection: Any, heads: int) -> OutputLengths:
    """Return how long an output projection makes values: a Conv1D keeps its weight the other way round."""
    turned = isinstance(projection, Conv1D)
    return OutputLengths(lambda: projection.weight.mT if turned else projection.weight, heads=heads)


def _of_pixels(model: Any) -> Callable[..., Any]:
    """Return a forward pass that takes embeddings where the model would make them of an image."""
    if not hasattr(model, "embeddings"):
        raise SpecError("a model of pixels is served where its embeddings are one module; this one's are not")
    given: ContextVar[Tensor] = ContextVar("embeddings")  # of the pass that a thread is in

    def forward(inputs_embeds: Tensor, **options: Any) -> Any:
        token = given.set(inputs_embeds)
        try:
            return model(pixel_values=inputs_embeds.new_empty(1), **options)
        finally:
            given.reset(token)

    model.embeddings.forward = lambda *_, **__: given.get()
    return forward


def _positions(module: nn.Module, config: Any) -> int | None:
    """Return how many positions a model has: its configuration's, or fewer where a table says so."""
    stated = getattr(config, "max_position_embeddings", None)
    limit = stated if isinstance(stated, int) and stated > 0 else None
    for name, one in module.named_modules():
        if name.endswith("position_embeddings") and isinstance(one, nn.Embedding):
            # RoBERTa and its kin count from the row after the padding token's.
            rows = one.num_embeddings - (0 if one.padding_idx is None else one.padding_idx + 1)
            limit = rows if limit is None else min(limit, rows)
    return limit


def _narrow(model: Any, dtype: torch.dtype) -> None:
    """Store parameters in a narrower dtype, but for those that an architecture says need float32.

    Buffers stay as they are: rotary angles in bfloat16 would be wrong.
    """
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, one in model.named_parameters():
        if kept.isdisjoint(name.split(".")):
            one.data = one.data.to(dtype)


def _brief(problem: Exception) -> str:
    first, *_ = str(problem).splitlines() or [""]
    return f"{type(problem).__name__}: {first[:200]}"
