"""On a GPU, blocks of small batches are CUDA graphs, and give what their launches give, whoever else runs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from models.encoder.graphs.replays import BatchReplays
from models.protocol import Item
from models.runtime import TorchRuntime
from tests.gpu.test_gpu import DEVICE, SPECS, TOLERANCES, answers, assert_close, cpu, folder, items  # noqa: F401

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

BIASED = ("relative", "alibi")
GRAPHED = tuple(name for name in SPECS if name not in BIASED)
BATCHES = ((64,), (1,), (5, 1, 40, 2), (3,) * 30, (130, 17, 64), (150,) * 3)


@pytest.fixture(scope="module", params=TOLERANCES)
def graphed(folder: Path, request: pytest.FixtureRequest) -> TorchRuntime:  # noqa: F811
    return TorchRuntime(folder, models=tuple(SPECS), device=DEVICE, dtype=request.param)


@pytest.fixture(scope="module")
def launched(folder: Path, graphed: TorchRuntime) -> TorchRuntime:  # noqa: F811
    dtype = str(graphed.about["dtype"])
    return TorchRuntime(folder, models=tuple(SPECS), device=DEVICE, dtype=dtype, graphs=False)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that were replayed."""
    layers: list[int] = []
    before = BatchReplays.block

    def noting(replays: BatchReplays, layer: int, x: torch.Tensor) -> torch.Tensor:
        layers.append(layer)
        return before(replays, layer, x)

    monkeypatch.setattr(BatchReplays, "block", noting)
    return layers


def hidden(runtime: TorchRuntime, name: str, lengths: Sequence[int]) -> list[Item]:
    return items(runtime.card(name), ("hidden",), lengths=lengths)


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize("name", GRAPHED)
def test_graphs_give_what_their_launches_give(
    graphed: TorchRuntime,
    launched: TorchRuntime,
    replayed: list[int],
    name: str,
    lengths: tuple[int, ...],
) -> None:
    card = graphed.card(name)
    if "hidden" not in card.outputs:
        pytest.skip("it has no blocks")
    batch = hidden(graphed, name, lengths)
    found = answers(graphed, batch)
    assert replayed == list(range(card.layers))
    expected = answers(launched, hidden(launched, name, lengths))
    assert len(replayed) == card.layers
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, TOLERANCES[str(graphed.about["dtype"])])


@pytest.mark.parametrize("name", ["encoder", "llama", "two-windows"])
def test_graphs_of_two_slots_at_a_time_give_what_each_gives_alone(
    graphed: TorchRuntime, replayed: list[int], name: str
) -> None:
    batches = [hidden(graphed, name, lengths) for lengths in BATCHES]
    expected = [answers(graphed, one) for one in batches]
    with ThreadPoolExecutor(8) as threads:
        found: list[Any] = list(
            threads.map(lambda place: answers(graphed, batches[place]), [0, 1, 2, 3] * 50)
        )
    assert replayed
    for place, own in enumerate(found):
        for one, other in zip(own, expected[place % 4], strict=True):
            assert_close(one, other, 1e-6)


def test_a_model_is_loaded_again_while_others_are_replayed(
    graphed: TorchRuntime,
    cpu: TorchRuntime,  # noqa: F811
) -> None:
    batch = hidden(graphed, "encoder", (20, 30))
    (expected, _) = answers(graphed, batch)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(answers, graphed, batch) for _ in range(300)]
        for _ in range(3):
            graphed.load("llama")
        for one in waiting:
            assert_close(one.result()[0], expected, 1e-6)
    assert_close(
        answers(graphed, hidden(graphed, "llama", (9,)))[0],
        answers(cpu, hidden(cpu, "llama", (9,)))[0],
        TOLERANCES[str(graphed.about["dtype"])],
    )


@pytest.mark.parametrize("name", BIASED)
def test_models_with_biases_are_launched(graphed: TorchRuntime, replayed: list[int], name: str) -> None:
    answers(graphed, items(graphed.card(name), ("z",)))
    assert not replayed
