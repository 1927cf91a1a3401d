"""Rotary positions of a Hugging Face `config.json`, as transformers v5 writes them or older releases did.

The meaning of every parameter is that of transformers' `modeling_rope_utils.py`. A kind that is not known,
or a parameter that is not of its kind, is a SpecError that names it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.config import LARGEST_FLOAT, shown
from models.errors import SpecError
from models.folders.huggingface.family import Table
from models.folders.huggingface.fields import Config, Key, whole

PLAIN = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
ORIGINAL = "original_max_position_embeddings"
KINDS: dict[str, frozenset[str]] = {  # and the parameters of each beside the plain ones
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor"}),
    "llama3": frozenset({"factor", ORIGINAL, "low_freq_factor", "high_freq_factor"}),
    "yarn": frozenset(
        {
            *("factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow"),
            *("mscale", "mscale_all_dim", "truncate"),
        }
    ),
    "longrope": frozenset({"factor", ORIGINAL, "attention_factor", "short_factor", "long_factor"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryFields:
    """How a family states its rotary positions: names and defaults of what stands beside `rope_parameters`.

    `positions`: the default of max_position_embeddings. `fraction`: of each head, in a family that turns a
    part only; the others do not know partial_rotary_factor. `original`: the default of the original length
    beside them. `kinds`: those that the family has, by the names it has for them.
    """

    positions: int
    theta: float = 10000.0
    theta_name: str = "rope_theta"
    fraction: float | None = None
    fraction_name: str = "partial_rotary_factor"
    original: int | None = None
    kinds: Mapping[str, str] = field(default_factory=lambda: {kind: kind for kind in KINDS})

    def table(self) -> Table:
        """Return the entries of a table that rotary positions are."""
        part = {} if self.fraction is None else {"positions.rotary_fraction": self.read_fraction}
        return part | {
            "positions.kind": "rotary",
            "positions.theta": self.read_theta,
            "positions.scaling": self.scaling,
            "positions.max_positions": self.read_positions,
        }

    def read_theta(self, config: Config) -> Any:
        """Return the base."""
        value = config.get(self.theta_name)
        return stated(config).get("rope_theta", self.theta if value is None else value)

    def read_fraction(self, config: Config) -> Any:
        """Return how much of each head turns."""
        value = config.get(self.fraction_name)
        return stated(config).get("partial_rotary_factor", self.fraction if value is None else value)

    def read_positions(self, config: Config) -> Any:
        """Return how many positions there are."""
        return positions_of(config, self.positions, self.scaling(config))

    def scaling(self, config: Config) -> dict[str, Any] | None:
        """Return what a ScalingSpec is built from; None: positions are not stretched."""
        return read_scaling(
            config,
            stated(config),
            positions=self.positions,
            in_part=self.fraction is not None,
            original=self.original,
            kinds=self.kinds,
        )


def read_scaling(
    config: Config,
    of: Mapping[str, Any],
    *,
    positions: int,
    in_part: bool = False,
    by_layer: bool = False,
    original: int | None = None,
    kinds: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Return what a ScalingSpec is built from, of parameters; None where they are of the default kind.

    `positions`: the default of max_position_embeddings. `in_part`: whether the family knows
    partial_rotary_factor. `by_layer`: the parameters are those of one kind of layers. `original`, `kinds`: as
    in RotaryFields.
    """
    name = of.get("rope_type", of.get("type", "default"))
    named = kinds or {kind: kind for kind in KINDS}
    if not isinstance(name, str) or name not in named:
        raise SpecError(
            f"rotary positions of type {shown(name)} are not supported; supported: {', '.join(named)}"
        )
    kind = named[name]
    known = KINDS[kind] - ({"truncate"} if by_layer else set())  # which transformers reads elsewhere then
    if unknown := sorted(set(of) - PLAIN - known):
        raise SpecError(f"rotary parameter {shown(unknown[0])} is not known in type {kind}")
    if kind == "default":
        return None
    if not in_part and of.get("partial_rotary_factor", 1.0) != 1.0:
        raise SpecError(
            f"partial_rotary_factor is {shown(of['partial_rotary_factor'])}; for {config['model_type']} "
            "only 1.0 is supported"
        )
    if kind == "linear":
        return {"kind": kind, "factor": _number(of, "factor")}
    most = whole(config, "max_position_embeddings", positions, least=1)
    if kind == "dynamic":
        return {"kind": kind, "factor": _number(of, "factor"), "original_positions": most}
    # The original length counts for more where it stands beside the parameters.
    beside = {} if original is None else {ORIGINAL: original}
    beside |= {ORIGINAL: config[ORIGINAL]} if ORIGINAL in config and not by_layer else {}
    length = whole({**of, **beside}, ORIGINAL, most, least=2)
    return {"kind": kind, "original_positions": length} | READ[kind](of, most / length)


def positions_of(config: Config, default: int, scaling: Mapping[str, Any] | None) -> Any:
    """Return how many positions there are: where an original length was stretched, so many times more."""
    given = Key("max_position_embeddings", default)(config)
    if scaling is None or scaling["kind"] not in ("yarn", "dynamic"):
        return given
    stretched = math.floor(scaling["factor"] * scaling["original_positions"])
    return max(whole(config, "max_position_embeddings", default), stretched)


def stated(config: Config) -> Mapping[str, Any]:
    """Return the rotary parameters, an empty mapping where there are none."""
    scaling, parameters = config.get("rope_scaling"), config.get("rope_parameters")
    found = scaling or parameters or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise SpecError("rotary parameters that differ from layer to layer are not supported")
    return found


def _number(of: Mapping[str, Any], name: str) -> float:
    """Return a positive number that a kind cannot do without."""
    value = of.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LARGEST_FLOAT:
        raise SpecError(
            f"rotary parameter {name} is {shown(value)}; it must be a positive number, within float32"
        )
    return float(value)


def _llama3(of: Mapping[str, Any], _: float) -> dict[str, Any]:
    return {
        "factor": _number(of, "factor"),
        "low_frequency_factor": _number(of, "low_freq_factor"),
        "high_frequency_factor": _number(of, "high_freq_factor"),
    }


def _yarn(of: Mapping[str, Any], longer: float) -> dict[str, Any]:
    """Return YaRN's parameters; `longer`: what a null factor is."""
    found = {"factor": longer if of.get("factor", 0) is None else _number(of, "factor")}
    found |= {name: _number(of, name) for name in ("beta_fast", "beta_slow") if of.get(name)}
    found["truncate"] = bool(of.get("truncate", True))
    if of.get("attention_factor") is not None:
        found["attention_factor"] = of["attention_factor"]
    elif of.get("mscale") and of.get("mscale_all_dim") and found["factor"] > 1:
        over, under = (0.1 * _number(of, name) * math.log(found["factor"]) + 1 for name in MSCALES)
        found["attention_factor"] = over / under
    return found


def _longrope(of: Mapping[str, Any], longer: float) -> dict[str, Any]:
    """Return LongRoPE's parameters; `longer`: what a factor is that is not given."""
    found: dict[str, Any] = {"factor": longer if of.get("factor") is None else _number(of, "factor")}
    for name in ("short", "long"):
        found[f"{name}_factors"] = of.get(f"{name}_factor")
    if of.get("attention_factor") is not None:
        found["attention_factor"] = of["attention_factor"]
    return found


MSCALES = ("mscale", "mscale_all_dim")
READ = {"llama3": _llama3, "yarn": _yarn, "longrope": _longrope}
