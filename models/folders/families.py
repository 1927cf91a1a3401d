"""A model folder, read: what it specifies and where its weights and tokenizer are.

Two kinds: a Hugging Face folder as `save_pretrained` writes it (`config.json` with `model_type`), and a
Heed folder (`config.json` with `heed` as its first key). Nothing but small JSON files is read here.
"""

import os
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.config import read_json, shown
from models.errors import SpecError, TextError
from models.folders.huggingface.translate import translate
from models.folders.naming import HEED, Naming
from models.folders.sentence_files import SentenceFiles, read_sentence_files
from models.regular_files import is_there, require_regular
from models.spec import ModelSpec
from models.text.files import TokenizerFiles, read_tokenizer_files

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
NO_FILE = "it has no tokenizer.json, vocab.txt, or vocab.json with merges.txt"
NO_TABLE = "it has no embedding table"
OWN_CODE = "auto_map names code of the folder's own, which is never run: it is read by its model_type alone"
DTYPES = ("float32", "float16", "bfloat16")
PREDICTIONS = "predictions"  # the field of config.json that says so, whoever wrote the rest of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """What every model folder holds.

    `weights` is a safetensors file or the index of a sharded one; `no_text` says why there is no tokenizer,
    `dtype` what the numbers are stored in by the configuration, `sentence` what sentence-transformers' files
    say, and `notes`, in words, what the folder has that is not served. `predictions`: whether it says that
    its output table is to be loaded.
    """

    folder: Path
    family: str  # "heed" or the Hugging Face model_type
    weights: Path
    tokenizer: TokenizerFiles | None
    no_text: str
    dtype: str | None
    sentence: SentenceFiles = field(default_factory=SentenceFiles)
    notes: tuple[str, ...] = ()
    predictions: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder(Folder):
    """A folder that a ModelSpec describes: for `load_weights(weights, spec, naming)`."""

    spec: ModelSpec
    naming: Naming


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedFolder(Folder):
    """A Hugging Face folder that transformers' own code must run; `reason` says what a ModelSpec cannot."""

    reason: str


def is_model(folder: Path) -> bool:
    """Whether a folder is a model's; in sentence-transformers' old layout config.json lies a folder below."""
    marks = (folder / "config.json", folder / "modules.json")
    return any(os.path.lexists(mark) and not mark.is_dir() for mark in marks)  # a broken link is one, too


def read_folder(folder: Path) -> ModelFolder | PretrainedFolder:
    """Read a model folder as `read_spec` does, or, where it cannot be specified, for transformers to run.

    Raises SpecError for what neither may serve: no configuration, no safetensors, quantised weights.
    Code of the folder's own (`auto_map`) is never run; `notes` say that it is there.
    """
    try:
        return read_spec(folder)
    except SpecError as problem:
        config, sentence, home = _files(folder)
        family = config.get("model_type")
        if "heed" in config or not isinstance(family, str):
            raise
        if config.get("quantization_config") is not None:
            raise SpecError(
                "quantization_config is set, and quantised weights are not served; save the model in one of "
                + ", ".join(DTYPES)
            ) from problem
        weights = _weights(home)
        if find_spec("transformers") is None:
            raise SpecError(
                f"{problem}; pip install 'heed-server[transformers]' to run it by transformers' own code"
            ) from problem
        if config.get("auto_map") and not _in_transformers(family):
            raise SpecError(f"{problem}; code of the folder's own (auto_map) is never run") from problem
        found = _found(home, config, sentence)
        return PretrainedFolder(family=family, reason=str(problem), weights=weights, **found)


def read_spec(folder: Path) -> ModelFolder:
    """Read a model folder; raise SpecError saying what is missing, unknown or contradictory in it."""
    config, sentence, home = _files(folder)
    if next(iter(config), None) == "heed":
        own = {name: value for name, value in config.items() if name != PREDICTIONS}
        family, spec, naming = "heed", ModelSpec.from_config(own), HEED
        sentence = replace(sentence, reason="its configuration has no pooling")
    elif "heed" in config:
        raise SpecError("config.json has heed, but not as its first key; put it first")
    elif "model_type" in config:
        spec, known = translate({name: value for name, value in config.items() if name != PREDICTIONS})
        family, naming = config["model_type"], known.naming
        sentence = sentence.fitting(spec.d_model)
        spec = replace(spec, pooling=sentence.pooling)
    else:
        raise SpecError("config.json has neither heed as its first key nor a model_type")
    found = _found(home, config, sentence, reads_ids=spec.embedding is not None)
    return ModelFolder(family=family, spec=spec, naming=naming, weights=_weights(home), **found)


def _in_transformers(family: str) -> bool:
    """Whether transformers itself has an architecture."""
    known = import_module("transformers.models.auto.configuration_auto")  # here, for it takes a second
    return family in known.CONFIG_MAPPING_NAMES


def _files(folder: Path) -> tuple[dict[str, Any], SentenceFiles, Path]:
    """Return the configuration, what sentence-transformers' files say, and the folder of the model's own.

    In sentence-transformers' old layout that is a folder below, as modules.json says.
    """
    require_regular(folder)
    own = folder / "config.json"
    if is_there(own) and "heed" in (config := read_json(own)):
        return config, SentenceFiles(), folder
    sentence = read_sentence_files(folder)
    home = folder / sentence.home
    config = read_json(home / "config.json")
    return config, sentence.with_config(config), home


def _weights(folder: Path) -> Path:
    if is_there(folder / "adapter_config.json"):
        raise SpecError(
            "adapter_config.json: an adapter is not a model; merge it into its model and save that"
        )
    found = [name for name in WEIGHTS if is_there(folder / name)]
    if not found:
        raise SpecError(
            f"there is no {' or '.join(WEIGHTS)}; only safetensors are read, so save the model in that format"
        )
    return folder / found[0]


def _found(
    home: Path, config: dict[str, Any], sentence: SentenceFiles, *, reads_ids: bool = True
) -> dict[str, Any]:
    """Return the fields of a Folder that do not depend on its kind."""
    tokenizer, no_text = None, NO_TABLE
    if reads_ids:
        try:
            tokenizer = read_tokenizer_files(home, config, lower=sentence.lower)
            no_text = "" if tokenizer else NO_FILE
        except TextError as problem:
            no_text = str(problem)
    notes = list(sentence.notes)
    if no_text not in ("", NO_FILE, NO_TABLE):
        notes.append(f"text is not offered: {no_text}")
    if config.get("auto_map"):
        notes.append(OWN_CODE)
    stored, asked = config.get("dtype", config.get("torch_dtype")), config.get(PREDICTIONS, False)
    if type(asked) is not bool:
        raise SpecError(f"{PREDICTIONS} is {shown(asked)}; it must be true or false")
    return {
        "folder": home,
        "tokenizer": tokenizer,
        "no_text": no_text,
        "dtype": stored if stored in DTYPES else None,
        "sentence": sentence,
        "notes": tuple(notes),
        "predictions": asked,
    }
