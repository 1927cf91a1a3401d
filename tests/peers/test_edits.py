"""Every verb of edits on every kind of model, against TransformerLens, nnsight and edited eager attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.peers.conftest import TOLERANCE, Asked, Reference, distance
from tests.peers.eager import Edited
from tests.peers.models import DECODERS, EDITED, eager, head_width
from tests.peers.questions import DONOR, DONOR_IDS, IDS, SILENCED, edits, grid
from tests.peers.verbs import OF_Z

LABELS = tuple(edits(causal=True, head_width=1))
LAYERS, HEADS = 3, 4  # of the patching grid


def changes_of(model: str, label: str) -> list[dict[str, Any]]:
    return edits(causal=model in DECODERS, head_width=head_width(model))[label]


def only_z(label: str) -> bool:
    return all(one["edit"] in OF_Z for one in edits(causal=True, head_width=1)[label])


# TransformerLens discards changes of an encoder's scores and weights.
CASES = [(model, label) for model in EDITED for label in LABELS if model in DECODERS or only_z(label)]


@pytest.fixture(scope="module")
def lens(reference: Reference) -> dict[str, np.ndarray]:
    return reference("lens")


@pytest.fixture(scope="module")
def edited_bert(small_models: Path) -> Edited:
    bert = Edited(eager("BertForMaskedLM", small_models / "bert"))
    bert.run(DONOR_IDS, [])
    bert.donor = bert.z
    return bert


def answered(asked: Asked, model: str, changes: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What our server says of IDS under edits, between two others that have none and must not notice."""
    inputs = [{"token_ids": DONOR_IDS}, {"token_ids": IDS, "edits": changes}, {"token_ids": IDS}]
    donor, edited, plain = asked.many(model, inputs, outputs=["hidden", "weights"], layers="all")
    beside_none = asked.many(
        model, [{"token_ids": DONOR_IDS}, {"token_ids": IDS}], outputs=["hidden", "weights"], layers="all"
    )
    for one, other in zip((donor, plain), beside_none, strict=True):
        assert one["hidden"] == other["hidden"]
        assert one["weights"] == other["weights"]
    assert edited["edited"] is True
    assert edited["hidden"] != plain["hidden"]
    return {"hidden": np.array(edited["hidden"][-1]), "weights": np.array(edited["weights"])}


@pytest.mark.parametrize(("model", "label"), CASES)
def test_an_edit_is_what_transformer_lens_hooks_do(
    model: str, label: str, lens: dict[str, np.ndarray], asked: Asked
) -> None:
    found = answered(asked, model, changes_of(model, label))
    for part, ours in found.items():
        assert distance(ours, lens[f"{model}/{label}/{part}"]) <= TOLERANCE, part


@pytest.mark.parametrize("label", LABELS)
def test_an_edit_of_an_encoder_is_what_edited_eager_attention_does(
    label: str, edited_bert: Edited, asked: Asked
) -> None:
    changes = changes_of("bert", label)
    hidden, weights = edited_bert.run(IDS, changes)
    found = answered(asked, "bert", changes)
    assert distance(found["hidden"], hidden.numpy()) <= TOLERANCE
    assert distance(found["weights"], weights.numpy()) <= TOLERANCE


@pytest.mark.parametrize("model", EDITED)
def test_a_patching_grid_of_twelve_cells_is_one_request(
    model: str, lens: dict[str, np.ndarray], asked: Asked
) -> None:
    cells = grid(LAYERS, HEADS)
    inputs = [{"token_ids": DONOR_IDS}, *({"token_ids": IDS, "edits": one} for one in cells)]
    assert DONOR == 0
    _, *found = asked.many(model, inputs, outputs=["hidden"])
    layers = sum(f"{model}/patch {number}/hidden" in lens for number in range(100)) // HEADS
    for number, one in enumerate(found):
        layer, head = divmod(number, HEADS)
        right = lens[f"{model}/patch {layer * HEADS + head}/hidden"]
        assert distance(one["hidden"], right) <= TOLERANCE, (layer, head, layers)


@pytest.fixture(scope="module")
def hooked(reference: Reference) -> dict[str, np.ndarray]:
    return reference("hooks")


@pytest.fixture(scope="module")
def silenced(asked: Asked, small_models: Path) -> np.ndarray:
    """Logits [T, V] of the GPT-2 with one head silenced by our server."""
    edit = {"edit": "scale", "heads": [list(SILENCED)], "value": 0}
    (found,) = asked.many("gpt2", [{"token_ids": IDS, "edits": [edit]}], outputs=["hidden"])
    table = load_file(small_models / "gpt2" / "model.safetensors")["transformer.wte.weight"]
    return np.array(found["hidden"]) @ table.T


def test_a_silenced_head_is_nnsights_before_the_output_projection(
    silenced: np.ndarray, hooked: dict[str, np.ndarray]
) -> None:
    assert distance(silenced, hooked["before"]) <= TOLERANCE


def test_what_is_cut_into_heads_after_the_output_projection_is_further_off_than_the_head_does(
    silenced: np.ndarray, hooked: dict[str, np.ndarray]
) -> None:
    effect = np.abs(hooked["plain"] - silenced).max()
    assert effect > 1
    assert np.abs(hooked["documented"] - silenced).max() > effect
