"""What our client hands to BertViz and CircuitsVis is what they draw."""

from pathlib import Path

import numpy as np
import pytest

from tests.peers.conftest import Asked, started, written
from tests.peers.questions import DRAWN_LAYER, IDS

MODELS = ("gpt2", "bert")


@pytest.fixture(scope="module")
def drawn(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    out: Path = tmp_path_factory.mktemp("pictures") / "drawn.npz"
    return written(started("pictures", asked.url, str(out), *MODELS), out)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_drawn_is_what_we_answer(model: str, drawn: dict[str, np.ndarray], asked: Asked) -> None:
    weights = asked.one(model, IDS, "weights", layers="all")["weights"].astype(np.float32)
    np.testing.assert_array_equal(drawn[f"{model}/bertviz"].astype(np.float32), weights)
    np.testing.assert_array_equal(drawn[f"{model}/circuitsvis"].astype(np.float32), weights[DRAWN_LAYER])


def test_what_an_encoder_attends_ahead_is_not_left_out(drawn: dict[str, np.ndarray]) -> None:
    assert drawn["gpt2/hidden"]
    assert not drawn["bert/hidden"]
