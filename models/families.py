"""A model folder, read and understood: what it specifies and where its weights and tokenizer are.

Two kinds: a Hugging Face folder as `save_pretrained` writes it (`config.json` with `model_type`), and a
Heed folder (`config.json` with `heed` as its first key). Nothing but small JSON files is read here.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.config import read_json, shown
from models.errors import SpecError
from models.huggingface import translate
from models.naming import HEED, Naming
from models.spec import ModelSpec, PoolingSpec

__all__ = ["ModelFolder", "PretrainedFolder", "read_folder", "read_spec"]

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt")
DTYPES = ("float32", "float16", "bfloat16")
POOLING_MODES = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "max": "max",
    "max_tokens": "max",
    "lasttoken": "last",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """What a folder holds: for `load_weights(weights, spec, naming)` and `Tokenizer(tokenizer)`.

    `weights` is a safetensors file or the index of a sharded one; `dtype` what the configuration says the
    numbers are stored in, if it does. `notes` tell in words what the folder has that is not served.
    """

    folder: Path
    family: str  # "heed" or the Hugging Face model_type
    spec: ModelSpec
    naming: Naming
    weights: Path
    tokenizer: Path | None
    dtype: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedFolder:
    """A Hugging Face folder that a ModelSpec cannot describe: transformers' own code must run it.

    `reason` says what the specification cannot; the other fields are those of a ModelFolder.
    """

    folder: Path
    family: str
    reason: str
    pooling: PoolingSpec | None
    weights: Path
    tokenizer: Path | None
    dtype: str | None
    notes: tuple[str, ...] = ()


def read_folder(folder: Path) -> ModelFolder | PretrainedFolder:
    """Read a model folder as `read_spec` does, or, where it cannot be specified, for transformers to run.

    Raises SpecError for what neither may serve: no configuration, no safetensors, quantised weights.
    Code of the folder's own (`auto_map`) is never run; `notes` say that it is there.
    """
    try:
        return read_spec(folder)
    except SpecError as problem:
        config = read_json(folder / "config.json")
        family = config.get("model_type")
        quantized = config.get("quantization_config")
        if "heed" in config or not isinstance(family, str) or quantized is not None:
            raise
        weights = _weights(folder)
        if find_spec("transformers") is None:
            raise SpecError(
                f"{problem}; pip install 'heed[transformers]' to run it by transformers' own code"
            ) from problem
        if config.get("auto_map") and not _in_transformers(family):
            raise SpecError(f"{problem}; code of the folder's own (auto_map) is never run") from problem
        pooling, notes = _pooling(folder)
        return PretrainedFolder(
            folder=folder,
            family=family,
            reason=str(problem),
            pooling=pooling,
            weights=weights,
            tokenizer=_tokenizer(folder),
            dtype=_stored_dtype(config),
            notes=(*notes, *_own_code(config)),
        )


def read_spec(folder: Path) -> ModelFolder:
    """Read a model folder; raise SpecError saying what is missing, unknown or contradictory in it."""
    config = read_json(folder / "config.json")
    notes: tuple[str, ...] = ()
    if next(iter(config), None) == "heed":
        family, spec, naming = "heed", ModelSpec.from_config(config), HEED
    elif "heed" in config:
        raise SpecError("config.json has heed, but not as its first key; put it first")
    elif "model_type" in config:
        spec, known = translate(config)
        family, naming = config["model_type"], known.naming
        pooling, notes = _pooling(folder)
        spec = replace(spec, pooling=pooling)
    else:
        raise SpecError("config.json has neither heed as its first key nor a model_type")
    return ModelFolder(
        folder=folder,
        family=family,
        spec=spec,
        naming=naming,
        weights=_weights(folder),
        tokenizer=_tokenizer(folder) if spec.embedding is not None else None,  # a table reads its ids
        dtype=_stored_dtype(config),
        notes=(*notes, *_own_code(config)),
    )


def _in_transformers(family: str) -> bool:
    """Whether transformers itself has an architecture."""
    known = import_module("transformers.models.auto.configuration_auto")  # here, for it takes a second
    return family in known.CONFIG_MAPPING_NAMES


def _own_code(config: dict[str, Any]) -> tuple[str, ...]:
    """Return a note where a folder brings code: it is never run, and what is known by its model_type is."""
    if not config.get("auto_map"):
        return ()
    return (
        "auto_map names code of the folder's own, which is never run: it is read by its model_type alone",
    )


def _weights(folder: Path) -> Path:
    found = [name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise SpecError(
            f"there is no {' or '.join(WEIGHTS)}; only safetensors are read, so save the model in that format"
        )
    return folder / found[0]


def _stored_dtype(config: dict[str, Any]) -> str | None:
    stored = config.get("dtype", config.get("torch_dtype"))
    return stored if stored in DTYPES else None


def _tokenizer(folder: Path) -> Path | None:
    return next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)


def _pooling(folder: Path) -> tuple[PoolingSpec | None, tuple[str, ...]]:
    """Return how sentence-transformers pools this model, from modules.json and the pooling's own file.

    None, with a note, where its modules do more than a PoolingSpec can say: `pooled` is then not offered.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return None, ()
    modules = read_json(file, top=list)
    pooling: PoolingSpec | None = None
    for at, module in enumerate(modules):
        kind, path = _module(module)
        if at == 0 and kind == "Transformer":
            continue
        if pooling is None and kind == "Pooling":
            pooling = _pooling_mode(folder / path / "config.json")
        elif pooling is not None and kind == "Normalize" and not pooling.normalize:
            pooling = replace(pooling, normalize=True)
        else:
            return None, (f"modules.json has {kind}, which is not supported: pooled is not offered",)
        if pooling is None:
            return None, (
                "the pooling configuration is not one of the supported modes: pooled is not offered",
            )
    return pooling, ()


def _module(module: object) -> tuple[str, str]:
    """Return a module's class name and its folder, which must lie directly in the model's."""
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise SpecError("modules.json must be a list of objects with a type and a path")
    path = module.get("path", "")
    if not isinstance(path, str) or path != Path(path).name or path.startswith("."):
        raise SpecError(f"modules.json gives the path {shown(path)}; it must be a folder beside it")
    return module["type"].rsplit(".", 1)[-1][:40], path


def _pooling_mode(file: Path) -> PoolingSpec | None:
    """Return the one mode that a pooling configuration chooses; None for none, several or an unknown one."""
    config: dict[str, Any] = read_json(file)
    prefix = "pooling_mode_"
    chosen = [key.removeprefix(prefix) for key, value in config.items() if key.startswith(prefix) and value]
    if isinstance(config.get("pooling_mode"), str):
        chosen.append(config["pooling_mode"])
    if len(chosen) != 1 or chosen[0] not in POOLING_MODES:
        return None
    return PoolingSpec(mode=POOLING_MODES[chosen[0]])  # type: ignore[arg-type]  # the table's values are modes
