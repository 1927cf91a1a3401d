"""Rotary positions of a Hugging Face `config.json`, as transformers v5 writes them or older releases did.

The meaning of every parameter is that of transformers' `modeling_rope_utils.py`. A kind that is not known,
or a parameter that is not of its kind, is a SpecError that names it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.config import shown
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
    part only; the others do not know partial_rotary_factor. `aliases`: kinds by other names.
    """

    positions: int
    theta: float = 10000.0
    theta_name: str = "rope_theta"
    fraction: float | None = None
    fraction_name: str = "partial_rotary_factor"
    aliases: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> Table:
        """Return the entries of a table that rotary positions are."""
        part = {} if self.fraction is None else {"positions.rotary_fraction": self.read_fraction}
        return part | {
            "positions.kind": "rotary",
            "positions.theta": self.read_theta,
            "positions.scaling": lambda config: self.scaling(config, stated(config)),
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
        """Return how many positions there are: where an original length was stretched, so many times more."""
        given = Key("max_position_embeddings", self.positions)(config)
        scaling = self.scaling(config, stated(config))
        if scaling is None or scaling["kind"] not in ("yarn", "dynamic"):
            return given
        factor, original = scaling["factor"], scaling["original_positions"]
        return max(whole(config, "max_position_embeddings", self.positions), math.floor(factor * original))

    def scaling(self, config: Config, of: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what a ScalingSpec is built from, of parameters; None where they are of the default kind."""
        name = of.get("rope_type", of.get("type", "default"))
        kind = self.aliases.get(name, name) if isinstance(name, str) else name
        if not isinstance(kind, str) or kind not in KINDS:
            raise SpecError(
                f"rotary positions of type {shown(kind)} are not supported; supported: {', '.join(KINDS)}"
            )
        if unknown := sorted(set(of) - PLAIN - KINDS[kind]):
            raise SpecError(f"rotary parameter {shown(unknown[0])} is not known in type {kind}")
        if kind == "default":
            return None
        if self.fraction is None and of.get("partial_rotary_factor", 1.0) != 1.0:
            raise SpecError(
                f"partial_rotary_factor is {shown(of['partial_rotary_factor'])}; for {config['model_type']} "
                "only 1.0 is supported"
            )
        if kind == "linear":
            return {"kind": kind, "factor": _number(of, "factor")}
        most = whole(config, "max_position_embeddings", self.positions, least=1)
        if kind == "dynamic":
            return {"kind": kind, "factor": _number(of, "factor"), "original_positions": most}
        original = whole({**of, **_outside(config)}, ORIGINAL, most, least=2)
        return {"kind": kind, "original_positions": original} | READ[kind](of, most / original)


def stated(config: Config) -> Mapping[str, Any]:
    """Return the rotary parameters, an empty mapping where there are none."""
    scaling, parameters = config.get("rope_scaling"), config.get("rope_parameters")
    found = scaling or parameters or {}
    if not isinstance(found, dict) or any(isinstance(value, dict) for value in found.values()):
        raise SpecError("rotary parameters that differ from layer to layer are not supported")
    return found


def _outside(config: Config) -> dict[str, Any]:
    """Return the original length where it stands beside the parameters: there it counts for more."""
    return {ORIGINAL: config[ORIGINAL]} if ORIGINAL in config else {}


def _number(of: Mapping[str, Any], name: str) -> float:
    """Return a positive number that a kind cannot do without."""
    value = of.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise SpecError(f"rotary parameter {name} is {shown(value)}; it must be a positive number")
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


MSCALES = ("mscale", "mscale_all_dim")


def _longrope(of: Mapping[str, Any], longer: float) -> dict[str, Any]:
    """Return LongRoPE's parameters; `longer`: what a factor is that is not given."""
    found: dict[str, Any] = {"factor": longer if of.get("factor") is None else _number(of, "factor")}
    for name in ("short", "long"):
        found[f"{name}_factors"] = of.get(f"{name}_factor")
    if of.get("attention_factor") is not None:
        found["attention_factor"] = of["attention_factor"]
    return found


READ = {"llama3": _llama3, "yarn": _yarn, "longrope": _longrope}
