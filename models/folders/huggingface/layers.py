"""What differs from layer to layer: which layers slide, how far those look, and by how much each turns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models.config import shown
from models.errors import SpecError
from models.folders.huggingface.family import Table
from models.folders.huggingface.fields import Config, Key, causal, whole, window
from models.folders.huggingface.rotary import positions_of, read_scaling
from models.spec import MOST_LAYERS

SLIDING, FULL = "sliding_attention", "full_attention"
KINDS = (SLIDING, FULL, "attention")
Reach = tuple[int | None, int | None]  # how many keys to the left of a query, and to the right


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Which layers slide: those that `layer_types` says, else where `slides(config, layer)`.

    `reach` says how far they look; None: there is no window.
    """

    slides: Callable[[Config, int], bool]
    reach: Callable[[Config], Reach | None]

    def table(self) -> Table:
        """Return the entries of a table that windows are."""
        return {
            "windows": lambda config: self._of(config, 0),
            "right_windows": lambda config: self._of(config, 1),
        }

    def sliding(self, config: Config) -> list[bool]:
        """Return of each layer whether it slides."""
        count = min(whole(config, "num_hidden_layers"), MOST_LAYERS)
        kinds, bounded = config.get("layer_types"), self.reach(config) is not None
        usual = [self.slides(config, layer) for layer in range(count)]
        if kinds is None:
            return [bounded and one for one in usual]
        if not isinstance(kinds, list) or not all(kind in KINDS for kind in kinds):
            raise SpecError(f"layer_types must be a list of {' and '.join(KINDS[:2])}")
        if SLIDING in kinds and not bounded:
            raise SpecError(f"layer_types has {SLIDING}, but there is no sliding_window")
        return [kind == SLIDING for kind in kinds]

    def _of(self, config: Config, side: int) -> list[int | None] | None:
        sliding, reach = self.sliding(config), self.reach(config)
        if reach is None or reach[side] is None or not any(sliding):
            return None
        return [reach[side] if slides else None for slides in sliding]


def reach_of_sliding_window(default: int, switch: str = "") -> Callable[[Config], Reach | None]:
    """Return a reader of `sliding_window`: to the left of the query, to both sides where it is not causal.

    `switch` names a field that must be true.
    """

    def read(config: Config) -> Reach | None:
        width, off = window(config, default), bool(switch) and config.get(switch, False) is not True
        if width is None or off:
            return None
        return (width, None) if causal(config) else (width + 1, width + 1)

    return read


def both_ways(config: Config) -> bool:
    """Return `use_bidirectional_attention`, with which Gemma 3 is an encoder (EmbeddingGemma)."""
    value = config.get("use_bidirectional_attention", False)
    if value is not None and not isinstance(value, bool):
        raise SpecError(f"use_bidirectional_attention is {shown(value)}; it must be true or false")
    return bool(value)


def reach_of_gemma3(config: Config) -> Reach | None:
    """Return how far sliding layers look: looking both ways, half of `sliding_window` to either side."""
    if config.get("sliding_window", 4096) is None:
        return None
    size = whole(config, "sliding_window", 4096, least=1)
    size = size // 2 + 1 if both_ways(config) else size
    if not causal(config):
        return size, size
    return size - 1, size - 1 if both_ways(config) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryByLayer:
    """Rotary positions whose base and scaling are those of the layer's kind, full or sliding.

    `names`, `thetas`: of the full and of the sliding layers' base, where it stands beside `rope_parameters`.
    `scaled`: the kinds that the older `rope_scaling` is of.
    """

    windows: Windows
    positions: int
    names: Mapping[str, str]
    thetas: Mapping[str, float]
    scaled: frozenset[str]

    def table(self) -> Table:
        """Return the entries of a table that these are."""
        return {
            "positions.kind": "rotary",
            "positions.theta": lambda config: self._of(config, FULL)["theta"],
            "positions.scaling": lambda config: self._of(config, FULL)["scaling"],
            "positions.max_positions": self._positions,
            "rotary": self._by_layer,
        }

    def _by_layer(self, config: Config) -> list[dict[str, Any] | None] | None:
        sliding, own = self.windows.sliding(config), self._of(config, SLIDING)
        if not any(sliding) or own == self._of(config, FULL):
            return None
        return [own if slides else None for slides in sliding]

    def _positions(self, config: Config) -> Any:
        return positions_of(config, self.positions, self._of(config, FULL)["scaling"])

    def _of(self, config: Config, kind: str) -> dict[str, Any]:
        """Return what a RotarySpec is built from, for a kind of layers."""
        scaling, parameters = config.get("rope_scaling"), config.get("rope_parameters")
        if parameters is None:
            of: Any = {"rope_type": "default"}
        elif (
            not isinstance(parameters, dict) or not set(parameters) <= {FULL, SLIDING} or scaling is not None
        ):
            raise SpecError(
                f"rope_parameters is {shown(parameters)}; for {config['model_type']} it must have {FULL} and "
                f"{SLIDING} alone, and no rope_scaling beside it"
            )
        else:
            of = parameters.get(kind) or {}
        if scaling is not None and kind in self.scaled:
            if not isinstance(scaling, dict):
                raise SpecError(f"rope_scaling is {shown(scaling)}; it must be an object")
            of = of | scaling
        if not isinstance(of, dict):
            raise SpecError(f"rope_parameters of {kind} is {shown(of)}; it must be an object")
        beside = Key(self.names[kind], default=self.thetas[kind])(config)
        scaled = read_scaling(config, of, positions=self.positions, by_layer=True)
        return {"theta": of.get("rope_theta", beside), "scaling": scaled}
