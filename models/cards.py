"""What is served under which name: one lookup for every runtime, with one answer to a wrong name."""

from collections.abc import Mapping

from models.errors import UnknownModel
from models.protocol import ModelCard

__all__ = ["by_name", "find"]


def by_name(cards: Mapping[str, ModelCard]) -> list[ModelCard]:
    """Return what is loaded, sorted by name."""
    return [card for _, card in sorted(cards.items())]


def find(cards: Mapping[str, ModelCard], name: str, version: str | None) -> ModelCard:
    """Return one loaded model, of this version if one is given; raise UnknownModel."""
    card = cards.get(name)
    if card is None:
        known = ", ".join(sorted(cards)) or "none"
        raise UnknownModel(f"no model is called {name[:64]!r}; loaded: {known}")
    if version not in (None, card.version):
        raise UnknownModel(f"model {name} has no version {version!r:.64} loaded; loaded: {card.version}")
    return card
