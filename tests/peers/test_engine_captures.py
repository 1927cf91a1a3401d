"""interp-engine's points, and ours of the same names or others: `docs/points.md` maps them."""

import numpy as np
import pytest

from tests.peers.conftest import TOLERANCE, Asked, Reference, distance
from tests.peers.models import CAPTURED
from tests.peers.questions import IDS


@pytest.fixture(scope="module")
def captured(reference: Reference) -> dict[str, np.ndarray]:
    return reference("captures")


@pytest.mark.parametrize("model", CAPTURED)
def test_weights_are_attn_probs(model: str, captured: dict[str, np.ndarray], asked: Asked) -> None:
    ours = asked.one(model, IDS, "weights", layers="all")
    assert distance(ours["weights"], captured[f"{model}/attn_probs"]) <= TOLERANCE


@pytest.mark.parametrize("model", CAPTURED)
def test_scores_are_attn_scores_but_for_what_the_mask_hides(
    model: str, captured: dict[str, np.ndarray], asked: Asked
) -> None:
    ours = asked.one(model, IDS, "scores", layers="all")["scores"]
    theirs = captured[f"{model}/attn_scores"]
    hidden = np.isnan(ours)  # null; theirs a large negative number
    assert np.array_equal(hidden, np.broadcast_to(np.triu(np.ones(theirs.shape[-2:], bool), 1), ours.shape))
    assert theirs[hidden].max() < -1e30
    assert distance(ours[~hidden], theirs[~hidden]) <= TOLERANCE


@pytest.mark.parametrize("model", CAPTURED)
def test_z_is_attn_out_and_z_heads_beside_each_other_are_their_z(
    model: str, captured: dict[str, np.ndarray], asked: Asked
) -> None:
    ours = asked.one(model, IDS, "z z_heads", layers="all")
    assert distance(ours["z"], captured[f"{model}/attn_out"]) <= TOLERANCE
    layers, heads, length, width = ours["z_heads"].shape
    beside = ours["z_heads"].transpose(0, 2, 1, 3).reshape(layers, length, heads * width)
    assert distance(beside, captured[f"{model}/z"]) <= TOLERANCE


@pytest.mark.parametrize("model", CAPTURED)
def test_hidden_is_resid_post_and_of_the_last_layer_final_norm(
    model: str, captured: dict[str, np.ndarray], asked: Asked
) -> None:
    ours = asked.one(model, IDS, "hidden", layers="all")["hidden"]
    assert distance(ours[:-1], captured[f"{model}/resid_post"][:-1]) <= TOLERANCE
    assert distance(ours[-1], captured[f"{model}/final_norm"]) <= TOLERANCE


@pytest.mark.parametrize("model", CAPTURED)
def test_embedded_is_resid_pre_of_the_first_layer(
    model: str, captured: dict[str, np.ndarray], asked: Asked
) -> None:
    ours = asked.one(model, IDS, "embedded")["embedded"]
    assert distance(ours, captured[f"{model}/resid_pre"][0]) <= TOLERANCE
