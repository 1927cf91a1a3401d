"""What sentence-transformers' files beside the weights say: modules, pooling, prompts, where texts are cut.

Read without torch, as sentence-transformers 6 reads them. What its `encode` would do and this server does
not is never left out in silence: `pooled` is then not offered, and the reason is kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from models.config import LARGEST, read_json, shown
from models.errors import SpecError
from models.folders.sentence_modules import Unsupported, module_of, read_pooling, read_step
from models.pooling_spec import PoolingSpec
from models.regular_files import is_there

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# As sentence-transformers looks for them; the first that says anything is read.
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Fields of the transformer's file that change nothing of `encode` for texts.
IDLE = frozenset(
    {"max_seq_length", "do_lower_case", "unpad_inputs", "query_length", "document_length", "query_expansion"}
)
# Arguments for transformers' loaders that change no number, or what this server has settings of its own for.
PLAIN_ARGUMENTS = {
    "model": frozenset(
        {
            "add_pooling_layer",
            "attn_implementation",
            "dtype",
            "low_cpu_mem_usage",
            "torch_dtype",
            "use_safetensors",
        }
    ),
    "tokenizer": frozenset({"model_max_length", "padding_side", "use_fast"}),
    "config": frozenset({"use_cache"}),
}
SPELLINGS = {
    "model": ("model_args", "model_kwargs"),
    "tokenizer": ("tokenizer_args", "processor_kwargs"),
    "config": ("config_args", "config_kwargs"),
}
DEFAULT_PROMPTS = {"query": "", "document": ""}  # sentence-transformers has these names without any file


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFiles:
    """What a folder says of whole texts; `root` None: it has no such files.

    `home` is the folder of the transformer's own files, below the model's; `pooling` None where there is
    none, or none that can be computed exactly, and `reason` says why. `cut_at` is where texts are cut, as
    `cut_by` says, in tokens; `lower`: they are lower-cased first. `prompts` by name, of which
    `default_prompt` is put before every text; `truncate_dim`: how many numbers of a vector are kept.
    `cut`: whether vectors may be cut to any width, or to one of the `dimensions`.
    """

    root: Path | None = None
    home: str = ""
    pooling: PoolingSpec | None = None
    reason: str = "it has no modules.json, by which sentence-transformers says how texts are pooled"
    cut_at: int | None = None
    cut_by: str = ""
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None
    cut: bool = False
    dimensions: tuple[int, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to tell of a folder that says how to pool, and is not obeyed."""
        if self.root is None or self.pooling is not None:
            return ()
        return (f"pooled is not offered: {self.reason}",)

    def with_config(self, config: dict[str, Any]) -> Self:
        """Return the same, with what config.json says of cutting vectors, in the fields that vLLM reads."""
        widths = config.get("matryoshka_dimensions")
        if not isinstance(widths, list) or not all(type(width) is int and width > 0 for width in widths):
            widths = []
        cut = self.truncate_dim is not None or config.get("is_matryoshka") is True or bool(widths)
        return replace(self, cut=cut, dimensions=tuple(sorted(widths)))

    def without_pooling(self, reason: str) -> Self:
        """Return the same, with a reason why there is no `pooled`."""
        return replace(self, pooling=None, reason=reason)

    def fitting(self, d_model: int) -> Self:
        """Return the same, without a pooling whose widths do not fit the model's."""
        try:
            if self.pooling is not None:
                self.pooling.out_width(d_model)
        except SpecError as problem:
            return self.without_pooling(str(problem))
        return self


def read_sentence_files(folder: Path) -> SentenceFiles:
    """Return what sentence-transformers' files in a model folder say.

    Raises SpecError for files that are not JSON, and for paths that lead out of the folder.
    """
    if not is_there(folder / MODULES):
        return SentenceFiles()
    modules = [module_of(module) for module in read_json(folder / MODULES, top=list)]
    home = modules[0].path if modules and modules[0].kind == "Transformer" else ""
    file, content = _transformer_file(folder / home)
    said: dict[str, Any] = {"root": folder, "home": home, **_cut(file, content)}
    try:
        for name, value in content.items():
            _check_field(file, name, value)
        said |= _settings(folder / SETTINGS)
        if not modules or modules[0].kind != "Transformer":
            what = shown(modules[0].type) if modules else "nothing"
            raise Unsupported(f"{MODULES} begins with {what}, not with a Transformer")
        said["pooling"] = _pooled(folder, modules[1:])
        said["reason"] = ""
    except Unsupported as problem:
        said["reason"] = str(problem)
    return SentenceFiles(**said)


def _pooled(folder: Path, modules: list[Any]) -> PoolingSpec:
    """Return the pooling and what follows it, in order."""
    if not modules:
        raise Unsupported(f"{MODULES} has no Pooling after the Transformer")
    if modules[0].kind != "Pooling":
        raise Unsupported(f"{MODULES} has {shown(modules[0].type)} before a Pooling, which is not supported")
    pooling = read_pooling(folder / modules[0].path)
    steps = [read_step(folder, module) for module in modules[1:]]
    return replace(pooling, steps=tuple(step for step in steps if step is not None))


def _transformer_file(home: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and the fields of the transformer's file; the first that says anything."""
    for name in TRANSFORMER_FILES:
        if is_there(home / name) and (content := read_json(home / name)):
            return name, content
    return TRANSFORMER_FILES[0], {}


def _cut(file: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return where texts are cut, and whether they are lower-cased; raise SpecError for what is neither."""
    lower = content.get("do_lower_case", False)
    if type(lower) is not bool:
        raise SpecError(f"{file}: do_lower_case is {shown(lower)}; it must be true or false")
    name, given = "max_seq_length", content.get("max_seq_length")
    if "model_max_length" in (arguments := _arguments(content, "tokenizer")):
        name, given = "model_max_length", arguments["model_max_length"]
    if given is None:
        return {"lower": lower}
    if type(given) is not int or not 1 <= given <= LARGEST:
        raise SpecError(f"{file}: {name} is {shown(given)}; it must be a whole number, 1 or more")
    return {"lower": lower, "cut_at": given, "cut_by": f"{name} of {file}"}


def _arguments(content: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in SPELLINGS[kind]:
        if isinstance(content.get(name), dict):
            found |= content[name]
    return found


def _check_field(file: str, name: str, value: Any) -> None:
    """Raise Unsupported unless a field of the transformer's file says what this server does."""
    if name in IDLE or value in (None, {}):
        return
    for kind, names in SPELLINGS.items():
        if name in names and isinstance(value, dict):
            odd = [key for key in value if key not in PLAIN_ARGUMENTS[kind] and key != "trust_remote_code"]
            if odd:
                raise Unsupported(f"{file} has {name} with {shown(odd[0])}, which is not supported")
            return
    plain = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    }
    if name not in plain or value != plain[name]:
        raise Unsupported(f"{file} has {shown(name)} of {shown(value)}, which is not supported")


def _settings(file: Path) -> dict[str, Any]:
    """Return prompts and where vectors are cut; other fields of this file change nothing of `encode`."""
    content = read_json(file) if is_there(file) else {}
    prompts = content.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise SpecError(f"{file.name}: prompts must be an object of texts by name")
    prompts = {name: text or "" for name, text in prompts.items()}
    default, cut = content.get("default_prompt_name"), content.get("truncate_dim")
    if cut is not None and (type(cut) is not int or not 1 <= cut <= LARGEST):
        raise SpecError(f"{file.name}: truncate_dim is {shown(cut)}; it must be a whole number, 1 or more")
    kind = content.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise Unsupported(f"{file.name} says model_type {shown(kind)}, which does not embed whole texts")
    if default is not None and default not in {**DEFAULT_PROMPTS, **prompts}:
        raise Unsupported(
            f"{file.name} names the default prompt {shown(default)}, and has no prompt of that name"
        )
    return {"prompts": prompts, "default_prompt": default, "truncate_dim": cut}
