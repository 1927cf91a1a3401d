"""sentence-transformers' modules that follow a transformer: pooling, and what is done to the vector then.

Each is a class name in `modules.json` and a folder with a `config.json` of its own. A module, or a field
of one, that is not known here raises Unsupported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.config import read_json, shown
from models.errors import SpecError
from models.pooling_spec import POOLING_ACTIVATIONS, PoolingMode, PoolingSpec, PoolingStep
from models.regular_files import is_there

PACKAGE = "sentence_transformers."
MODES: dict[str, PoolingMode] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
# The flags of older files, in the order in which several are put side by side.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_FIELDS = frozenset(
    {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *FLAGS}
)
VECTOR = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
DENSE_FIELDS = frozenset(
    {"in_features", "out_features", "bias", "activation_function", "use_residual", *VECTOR}
)


class Unsupported(Exception):
    """Why `pooled` cannot be computed as sentence-transformers would."""


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json: the class as it is written, and the folder of its files."""

    type: str
    path: str

    @property
    def kind(self) -> str:
        """The class name; empty for a class of another package, whatever it is called."""
        return self.type.rsplit(".", 1)[-1] if self.type.startswith(PACKAGE) else ""


def module_of(module: object) -> Module:
    """Return a module, whose folder must lie directly in the model's; raise SpecError for anything else."""
    if not isinstance(module, dict) or not isinstance(module.get("type"), str):
        raise SpecError("modules.json must be a list of objects with a type and a path")
    path = module.get("path", "")
    if not isinstance(path, str) or path != Path(path).name or path.startswith("."):
        raise SpecError(f"modules.json gives the path {shown(path)}; it must be a folder beside it")
    return Module(module["type"], path)


def read_pooling(folder: Path) -> PoolingSpec:
    """Return the modes of a Pooling module, in the order in which their vectors stand side by side."""
    config = _config(folder, POOLING_FIELDS, required=True)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in FLAGS.items() if config.get(flag)] or ["mean"]
    modes = modes if isinstance(modes, list) else [modes]
    unknown = [mode for mode in modes if not isinstance(mode, str) or mode not in MODES]
    if unknown or not modes:
        raise Unsupported(
            f"{folder.name} pools by {shown(unknown[0] if unknown else modes)}, which is not supported"
        )
    include = config.get("include_prompt", True)
    width = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    if type(include) is not bool or (width is not None and type(width) is not int):
        raise Unsupported(f"{folder.name} has an include_prompt or a dimension that is none")
    return PoolingSpec(modes=tuple(MODES[mode] for mode in modes), include_prompt=include, width=width)


def read_step(root: Path, module: Module) -> PoolingStep | None:
    """Return what a module after the pooling does to the vector; None for nothing."""
    folder = root / module.path
    if module.kind == "Normalize":
        _of_the_vector(folder, _config(folder, frozenset(VECTOR)))
        return PoolingStep(kind="normalize")
    if module.kind == "Dropout":
        return None  # nothing is dropped out of a model that is served
    if module.kind == "Dense":
        return _dense(folder)
    if module.kind == "LayerNorm":
        config = _config(folder, frozenset({"dimension"}), required=True)
        width = _width(folder, config, "dimension")
        return _with_weights(folder, PoolingStep(kind="layer_norm", width=width, folder=module.path))
    raise Unsupported(f"modules.json has {shown(module.type)} after the pooling, which is not supported")


def _dense(folder: Path) -> PoolingStep:
    config = _config(folder, DENSE_FIELDS, required=True)
    _of_the_vector(folder, config)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = activation.rsplit(".", 1)[-1] if isinstance(activation, str) else ""
    if name not in POOLING_ACTIVATIONS or activation.rpartition(".")[0] not in (
        "torch.nn",
        "torch.nn.modules.activation",
        "torch.nn.modules.linear",
    ):
        raise Unsupported(f"{folder.name} has the activation {shown(activation)}, which is not supported")
    step = PoolingStep(
        kind="dense",
        inputs=_width(folder, config, "in_features"),
        width=_width(folder, config, "out_features"),
        bias=bool(config.get("bias", True)),
        activation=name,
        residual=bool(config.get("use_residual", False)),
        folder=folder.name,
    )
    return _with_weights(folder, step)


def _with_weights(folder: Path, step: PoolingStep) -> PoolingStep:
    if is_there(folder / "model.safetensors"):
        return step
    pickled = (
        "only pytorch_model.bin, which is never read" if (folder / "pytorch_model.bin").exists() else "none"
    )
    raise Unsupported(f"{folder.name} needs weights in model.safetensors; it has {pickled}")


def _of_the_vector(folder: Path, config: dict[str, Any]) -> None:
    """Raise Unsupported for a module that works on anything but the pooled vector."""
    for field, usual in VECTOR.items():
        if config.get(field) not in (None, usual):
            raise Unsupported(f"{folder.name} has {field} {shown(config[field])}, which is not supported")


def _width(folder: Path, config: dict[str, Any], name: str) -> int:
    width = config.get(name)
    if type(width) is not int or not 1 <= width < 2**31:
        raise Unsupported(f"{folder.name} has {name} {shown(width)}; it must be a whole number, 1 or more")
    return width


def _config(folder: Path, known: frozenset[str], *, required: bool = False) -> dict[str, Any]:
    """Return a module's configuration; raise Unsupported for a field that is not known, or none at all."""
    file = folder / "config.json"
    if not is_there(file):
        if required:
            raise Unsupported(f"{folder.name} has no config.json")
        return {}
    config: dict[str, Any] = read_json(file)
    for name in config:
        if name not in known:
            raise Unsupported(f"{folder.name} has the field {shown(name)}, which is not known")
    return config
