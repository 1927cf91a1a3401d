"""Points of the residual stream, against interp-engine's."""

import numpy as np
import pytest

from tests.peers.conftest import TOLERANCE, Asked, Reference, distance
from tests.peers.models import CAPTURED
from tests.peers.questions import IDS


@pytest.fixture(scope="module")
def captured(reference: Reference) -> dict[str, np.ndarray]:
    return reference("captures")


@pytest.mark.parametrize("model", CAPTURED)
@pytest.mark.parametrize(
    ("ours", "theirs"), [("mid", "resid_mid"), ("feed_forward", "mlp_out"), ("residual", "resid_post")]
)
def test_a_point_of_the_residual_stream_is_theirs(
    model: str, ours: str, theirs: str, captured: dict[str, np.ndarray], asked: Asked
) -> None:
    found = asked.one(model, IDS, ours, layers="all")[ours]
    assert distance(found, captured[f"{model}/{theirs}"]) <= TOLERANCE
