"""A folder's model as transformers reads it: configuration, bare class, and every parameter from the file.

What the file holds and nothing reads is looked at, too: a head beside the bare model and buffers that are
computed anew change nothing here; anything else says that the file is of another model than the class.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from models.config import read_json
from models.errors import SpecError
from models.folders.families import PretrainedFolder
from models.folders.tensor_file import StoredTensor, TensorFile, open_tensors
from models.folders.weights import headers, weight_bytes
from models.spec import MOST_LAYERS

SPARE = "pooler."  # parameters that no output reads: they may be missing from a file
MOST_NAMED = 5  # of tensors in one message

# Modules that transformers' own classes put after a bare model, by the first part of a tensor's name (of the
# classes of its MODEL_FOR_…_MAPPINGs). Nothing that is served here reads them.
HEADS = frozenset(
    re.findall(
        r"\w+",
        """
        lm_head cls classifier score qa_outputs head projector classification_head
        sequence_summary pre_classifier logits_proj generator_predictions generator_lm_head
        discriminator_predictions predictions pooler pred_layer projection_head sop_classifier
        qa_classifier output_projection cls_classifier mlm_head mim_head itm_head
        distillation_classifier vocab_transform vocab_layer_norm vocab_projector embed_out lm_loss
        entity_predictions answer_head final_logits_bias splinter_qass output_weights output_bias
        proj_out column_output_weights column_output_bias span_classifier mask_predictions
        contact_head text_projection regression_head nsp_classifier lm_predictions v_head
        value_head reward_head logit_scale logit_bias
        """,
    )
)
# Of ModernBERT and EuroBERT.
HEAD_TENSORS = frozenset({"decoder.weight", "decoder.bias", "dense.weight", "dense.bias"})
# Numbers that old files keep and that transformers computes anew: positions, angles, sinusoids, causal masks.
COMPUTED = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|original_inv_freq|masked_bias|cos_cached|sin_cached|"
    r"num_batches_tracked|_float_tensor|embed_positions\.weights|relative_position_index)$"
)
CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention|crossattention)\.bias$")  # GPT-2's kin: [1, 1, T, T]
MASK_AXES = 4


def read_config(folder: PretrainedFolder) -> Any:
    """Return a folder's configuration; no code of the folder is run. Raises SpecError."""
    stored = read_json(folder.folder / "config.json")
    for name, value in stored.items():
        if "layer" in name and isinstance(value, int) and value > MOST_LAYERS:  # some are lists in a moment
            raise SpecError(f"{name} is {value}; the limit is {MOST_LAYERS}")
    if folder.family not in transformers.CONFIG_MAPPING:
        own = "; code of the folder's own (auto_map) is never run" if stored.get("auto_map") else ""
        raise SpecError(
            f"transformers {transformers.__version__} has no architecture {folder.family[:80]!r}{own}"
        )
    try:
        return transformers.AutoConfig.from_pretrained(
            folder.folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as problem:  # transformers raises whatever comes
        raise SpecError(f"transformers cannot read config.json: {brief(problem)}") from problem


def read_model(folder: PretrainedFolder, config: Any) -> nn.Module:
    """Return the bare model with all its parameters from the file, in float32, eager.

    Raises SpecError where parameters are missing, misshapen or not finite, or tensors are left unread.
    """
    cls = _class(config)
    _require_positions_read(cls, config)
    stored = weight_bytes(folder.weights, dtype=torch.float32)
    try:
        with torch.device("meta"):
            empty = cls._from_config(config)  # what AutoModel.from_config calls
        spare = (SPARE, *_sinusoids(empty))
        needed = sum(4 * one.numel() for name, one in empty.named_parameters() if not name.startswith(spare))
    except Exception as problem:
        raise SpecError(f"transformers cannot build {cls.__name__}: {brief(problem)}") from problem
    if needed > stored:  # else transformers would make up the rest, of any size
        raise SpecError(f"{cls.__name__} has {needed} bytes of parameters in float32, the file {stored}")
    try:
        with ExitStack() as opened:
            model, found = cls.from_pretrained(
                None,
                state_dict=_unread_tensors(folder.weights, opened),
                config=config,
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
    except SpecError:
        raise
    except Exception as problem:
        raise SpecError(f"transformers cannot load the weights: {brief(problem)}") from problem
    config.name_or_path = str(folder.folder)  # as it was before; of a state dict there is none
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(spare))
    if missing or found["mismatched_keys"]:
        wrong = [*missing, *(str(one[0]) for one in found["mismatched_keys"])]
        raise SpecError(f"the file does not hold all of {cls.__name__}: {_few(wrong)} missing or misshapen")
    left = unread(
        found["unexpected_keys"],
        headers(folder.weights),
        prefix=str(getattr(cls, "base_model_prefix", "")),
        spare_decoder=encoder_alone(config),
    )
    if left:
        raise SpecError(
            f"{cls.__name__} of transformers {transformers.__version__} does not read {len(left)} tensors of "
            f"the file: {_few(left)}; it is of another model (what may go unread: heads such as lm_head or "
            "classifier, and buffers such as position_ids or inv_freq)"
        )
    for name, tensor in model.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise SpecError(f"{name} holds numbers that are not finite; the file is damaged")
    return model.eval().requires_grad_(requires_grad=False)  # type: ignore[no-any-return]


class _Unread:
    """A tensor of a file that is read when transformers takes it, as it takes slices of safetensors'."""

    def __init__(self, file: TensorFile, name: str) -> None:
        self._file, self._name = file, name

    def __getitem__(self, _: object) -> Tensor:
        return self._file.read(self._name)


def _unread_tensors(weights: Path, opened: ExitStack) -> dict[str, _Unread]:
    """Return the tensors of a file, or of the shards of an index, which `opened` closes.

    transformers itself would map the files, and go on computing with what is mapped.
    """
    stored = headers(weights)
    files = {one.file: opened.enter_context(open_tensors(one.file)) for one in stored.values()}
    return {name: _Unread(files[one.file], name) for name, one in stored.items()}


def unread(
    names: Iterable[str],
    stored: Mapping[str, StoredTensor],
    *,
    prefix: str = "",
    spare_decoder: bool = False,
) -> list[str]:
    """Return the tensors, of those that nothing read, that are neither a head nor computed anew.

    `stored` is what the headers say, `prefix` what a class with a head puts before the names of its bare
    model.
    """
    left = []
    for name in sorted(names):
        bare = name.removeprefix(f"{prefix}.")
        first = bare.split(".")[0]
        if first in HEADS or bare in HEAD_TENSORS or COMPUTED.search(name):
            continue
        if spare_decoder and first == "decoder":
            continue
        if CAUSAL_MASK.search(name) and name in stored and len(stored[name].shape) == MASK_AXES:
            continue
        left.append(name)
    return left


def encoder_alone(config: Any) -> bool:
    """Whether a folder of an encoder-decoder architecture holds its encoder alone, as T5EncoderModel."""
    return bool(config.is_encoder_decoder) and _saved(config) in _text_encoders(config)


def narrow(model: Any, dtype: torch.dtype) -> None:
    """Store parameters in a narrower dtype, but for those that an architecture says need float32.

    Buffers stay as they are: rotary angles in bfloat16 would be wrong.
    """
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, one in model.named_parameters():
        if kept.isdisjoint(name.split(".")):
            one.data = one.data.to(dtype)


def brief(problem: Exception) -> str:
    """Return the kind and first line of what somebody's code has raised."""
    first, *_ = str(problem).splitlines() or [""]
    return f"{type(problem).__name__}: {first[:200]}"


def _class(config: Any) -> Any:
    """Return the bare class of a configuration: the one that saved the folder, where it is one of them.

    Which classes are bare is what transformers' own tables say, AutoModel's and AutoModelForTextEncoding's; a
    name that ends in Model says nothing (GPT2LMHeadModel, MarianMTModel). A part of a model that is in
    neither, such as SigLIP's text tower, is the class that saved it.
    """
    bare = _classes(transformers.MODEL_MAPPING, config)
    saved = _saved(config)
    named = [one for one in (*bare, *_text_encoders(config, classes=True)) if one.__name__ == saved]
    if not bare and not named:
        cls = getattr(transformers, saved, None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            named = [cls] if cls.config_class is type(config) else []
    if not bare and not named:
        raise SpecError(f"transformers has no bare model for {type(config).__name__}")
    return (named or bare)[0]


def _require_positions_read(cls: Any, config: Any) -> None:
    """Raise SpecError where a folder asks for positions of a kind that the class does not know."""
    kind = getattr(config, "position_embedding_type", None)
    if kind in (None, "absolute") or "position_embedding_type" in inspect.getsource(
        sys.modules[cls.__module__]
    ):
        return
    raise SpecError(
        f"position_embedding_type is {str(kind)[:40]!r}, which {cls.__name__} of transformers "
        f"{transformers.__version__} does not read"
    )


def _sinusoids(model: nn.Module) -> tuple[str, ...]:
    """Return the names of tables of sinusoids, which are computed: MarianMTModel does not save them."""
    return tuple(name + "." for name, one in model.named_modules() if "Sinusoidal" in type(one).__name__)


def _classes(mapping: Any, config: Any) -> list[Any]:
    if type(config) not in mapping:
        return []
    found = mapping[type(config)]
    return list(found) if isinstance(found, tuple | list) else [found]


def _text_encoders(config: Any, *, classes: bool = False) -> list[Any]:
    """Return the classes, or their names, that hold the encoder of an encoder-decoder architecture alone."""
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING
    bare = {one.__name__ for one in _classes(transformers.MODEL_MAPPING, config)}
    found = [one for one in _classes(mapping, config) if one.__name__ not in bare]
    return found if classes else [one.__name__ for one in found]


def _saved(config: Any) -> str:
    names = getattr(config, "architectures", None) or [""]
    return str(names[0])


def _few(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
