"""How the runtime uses a GPU, shown on a processor that passes for one: streams, steps, failures, warming."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.device import gpu
from models.device.gpu import Gpu
from models.errors import DeviceFailed, OutOfMemory
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from tests.models.device.fake_cuda import FakeCuda


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def runtime(repository: Path, cuda: FakeCuda) -> TorchRuntime:
    made = TorchRuntime(repository, models=("minilm",), device="cpu", dtype="float32")
    made._gpu = Gpu(torch.device("cpu"), slots=2, cuda=cuda)
    return made


def item(runtime: TorchRuntime, tokens: int = 5) -> Item:
    ids = np.arange(1, tokens + 1)
    return Item(
        card=runtime.card("minilm"),
        input=Tokens(ids=ids),
        selection=Selection(outputs=("pooled",), layers=(5,)),
    )


def test_all_steps_of_a_batch_run_in_one_stream_and_another_batch_between_them_in_its_urgent_one(
    runtime: TorchRuntime, cuda: FakeCuda
) -> None:
    steps = runtime.steps([item(runtime)])
    next(steps)
    between = len(cuda.log)
    assert isinstance(runtime.run([item(runtime)]).answers[0], Answer)
    (short,) = (what for what in cuda.log[between:] if what[0] == "in")
    for _ in steps:
        pass
    names = [what[1] for what in cuda.log if what[0] == "in"]
    names.remove(short[1])
    assert len(names) > 5
    assert len({*names}) == 1
    assert cuda.priorities[int(short[1].split()[1])] < 0
    assert ("wait for event of", names[0]) in cuda.log  # never more than two steps ahead
    assert runtime._gpu is not None
    assert len(runtime._gpu._free) == 2


def test_a_batch_that_is_left_gives_its_streams_back(runtime: TorchRuntime) -> None:
    steps = runtime.steps([item(runtime)])
    next(steps)
    steps.close()
    assert runtime._gpu is not None
    assert len(runtime._gpu._free) == 2


class AcceleratorError(RuntimeError):
    """Torch's own, by its name."""


@pytest.mark.parametrize(
    ("said", "lives", "raised"),
    [
        ("CUDA error: out of memory", True, OutOfMemory),
        ("CUDA error: invalid configuration argument", True, RuntimeError),
        ("CUDA error: an illegal memory access was encountered", False, DeviceFailed),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True, OutOfMemory),
    ],
)
def test_what_a_batch_raises_is_what_the_device_says_of_itself(
    runtime: TorchRuntime,
    cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    lives: bool,
    raised: type[Exception],
) -> None:
    monkeypatch.setattr(gpu, "computes", lambda _: lives)
    (card,) = runtime.cards()

    def run(*_: object) -> None:
        raise AcceleratorError(said)

    with monkeypatch.context() as broken:
        broken.setattr(type(card.handle.model), "run", run)  # type: ignore[union-attr]
        with pytest.raises(raised) as caught:
            runtime.run([item(runtime)])
    assert type(caught.value) is raised
    assert cuda.emptied == (raised is OutOfMemory)
    assert isinstance(runtime.run([item(runtime)]).answers[0], Answer)


def test_a_model_is_warmed_in_every_stream_when_it_is_loaded(
    runtime: TorchRuntime, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, tuple[str, ...]]] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    warm: Callable[..., None] = Gpu.warm

    def noting(device: Gpu, work: Callable[[], None]) -> None:
        run = work.args[1]  # type: ignore[attr-defined]

        def noted(items: list[Item]) -> object:
            sizes.extend((one.input.queries, one.selection.outputs) for one in items)
            return run(items)

        warm(device, lambda: work.func(work.args[0], noted))  # type: ignore[attr-defined]

    monkeypatch.setattr(Gpu, "warm", noting)
    runtime.load("minilm")
    once = [(1, ("z",)), (64, ("z",)), (512, ("z",)), (64, ("weights",))]  # it has 512 positions
    assert sorted(sizes) == sorted(once * 4)
    assert {what for what in cuda.log if what[0] == "in"} == {("in", f"stream {n}") for n in range(4)}


def test_memory_tells_what_the_device_holds(runtime: TorchRuntime) -> None:
    memory = runtime.memory()
    assert memory["weights"] > 0
    assert (memory["allocated"], memory["reserved"]) == (3, 5)
