"""An induction head, learned here: found by its profile, silenced by an edit, missed in the predictions.

Two layers of one head learn sequences that repeat after a while that is never the same (Elhage et al. 2021,
Olsson et al. 2022): no position tells what comes next, so the first layer looks at the token before, and the
second for what followed this token last time. With one head a layer, none can take the other's place.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.runtime import TorchRuntime
from models.training.plan import Plan
from models.training.train import train
from tests.serving import Served, served

WORDS, CONTEXT = 24, 32
PLAN = Plan(
    steps=1000,
    layers=2,
    heads=1,
    d_model=32,
    context=CONTEXT,
    block="transformer",
    positions="learned",
    batch=32,
    learning_rate=1e-2,
    seed=1,
    evaluate_every=1000,
)
PERIOD = 14  # of the sequences that are asked
HEAD = [1, 0]  # the second layer's
INDUCTION = 5  # of the six numbers of `head_profile`


def repeated(chance: np.random.Generator, period: int, length: int) -> str:
    """Return random words, and the same again."""
    words = np.resize(chance.integers(0, WORDS, period), length)
    return " ".join(f"w{word}" for word in words)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("learned") / "model"
    chance = np.random.default_rng(0)
    texts = (repeated(chance, int(chance.integers(3, 17)), CONTEXT) for _ in range(4000))
    train("\n\n".join(texts), folder, plan=PLAN, checkpoint_every=PLAN.steps)
    runtime = TorchRuntime(folder.parent, models=("model",), device="cpu", dtype="float32", predictions=True)
    with served(runtime) as one:
        yield one


@pytest.fixture(scope="module")
def texts() -> list[str]:
    chance = np.random.default_rng(9)
    return [repeated(chance, PERIOD, 2 * PERIOD) for _ in range(32)]


def asked(service: Served, texts: list[str], edits: list[dict[str, Any]], **options: Any) -> list[Any]:
    inputs = [{"text": text} | ({"edits": edits} if edits else {}) for text in texts]
    reply = service.attend({"inputs": inputs, **options}, model="model")
    assert reply.status_code == 200, reply.text
    outputs: list[Any] = reply.json()["outputs"]
    return outputs


def losses(service: Served, texts: list[str], edits: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the mean loss of the words of the first half, and of those that came before, in nats."""
    found = np.array(
        [one["logprobs"][:-1] for one in asked(service, texts, edits, outputs=["logprobs"])], np.float64
    )
    return -found[:, : PERIOD - 1].mean(), -found[:, PERIOD:].mean()


def test_the_head_that_induces_tops_the_sixth_column_of_the_profile(
    service: Served, texts: list[str]
) -> None:
    found = asked(service, texts, [], outputs=["head_profile"], layers="all")
    profile = np.mean([one["head_profile"] for one in found], axis=0)  # [L, H, 6]
    induction = profile[..., INDUCTION]
    assert list(np.unravel_index(induction.argmax(), induction.shape)) == HEAD
    assert induction[tuple(HEAD)] > 3 * np.delete(induction.ravel(), induction.argmax()).max()


def test_without_its_induction_head_the_model_knows_the_second_half_no_better_than_the_first(
    service: Served, texts: list[str]
) -> None:
    first, second = losses(service, texts, [])
    assert second < first / 3
    assert abs(first - np.log(WORDS)) < 0.5  # nothing is known of random words
    unaided = losses(service, texts, [{"edit": "scale", "heads": [HEAD], "value": 0}])[1]
    assert unaided >= first
