"""Streams of a GPU are as many as its slots, whoever runs batches; and an error ends no more than it must."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.device import gpu
from models.device.gpu import Gpu
from models.errors import DeviceFailed, OutOfMemory, of_batch
from tests.models.device.fake_cuda import FakeCuda

CPU = torch.device("cpu")


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def device(cuda: FakeCuda) -> Gpu:
    return Gpu(CPU, slots=2, cuda=cuda)


def test_many_threads_share_as_many_streams_as_there_are_slots(cuda: FakeCuda, device: Gpu) -> None:
    seen, most, now = set(), 0, 0
    lock = threading.Lock()

    def batch(_: int) -> None:
        nonlocal most, now
        with device.stream() as stream:
            with lock:
                now += 1
                most = max(most, now)
                seen.add(stream.name)
            with lock:
                now -= 1

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(batch, range(500)))
    assert len(cuda.streams) == 4  # two a slot, made once
    assert seen <= {"stream 0", "stream 2"}
    assert most <= 2


def test_the_stream_that_was_used_last_is_used_next(device: Gpu) -> None:
    with device.stream() as first:
        pass
    for _ in range(5):
        with device.stream() as again:
            assert again is first


def test_between_two_steps_of_a_long_batch_a_short_one_has_a_more_urgent_stream(
    cuda: FakeCuda, device: Gpu
) -> None:
    with device.streams() as streams:
        with device.stream() as between:
            assert between is streams.urgent
            assert between is not streams.batch
        assert cuda.priorities[cuda.streams.index(streams.urgent)] < cuda.priorities[0]
        with ThreadPoolExecutor(1) as other:  # the other slot has its own
            assert other.submit(lambda: device.stream().__enter__()).result() is not streams.urgent
    with device.stream() as after:
        assert after is streams.batch


def test_a_stream_goes_back_when_another_thread_ends_the_batch(device: Gpu) -> None:
    held = [device.streams(), device.streams()]
    with ThreadPoolExecutor(1) as one:
        one.submit(held[0].__enter__).result()
        held[1].__enter__()
    for pair in held:
        pair.__exit__(None, None, None)
    with device.streams(), ThreadPoolExecutor(1) as other:
        other.submit(lambda: device.streams().__enter__()).result(timeout=10)


def test_no_more_than_two_steps_of_a_long_batch_are_queued(cuda: FakeCuda, device: Gpu) -> None:
    with device.streams() as streams:
        waited = []
        for _ in range(6):
            before = len(cuda.log)
            device.pace(streams)
            waited.append(cuda.log[before:])
            assert len(streams.events) <= gpu.STEPS_AHEAD + 1
    assert waited[:2] == [[], []]
    assert waited[2:] == [[("wait for event of", streams.batch.name)]] * 4
    assert not streams.events


def test_every_stream_is_warmed_once_and_each_slot_by_a_thread_of_its_own(
    cuda: FakeCuda, device: Gpu
) -> None:
    threads = []

    def work() -> None:
        assert torch.is_inference_mode_enabled()
        threads.append(threading.get_ident())

    device.warm(work)
    assert len(threads) == 4
    assert len(set(threads)) == 2
    assert {what for what in cuda.log if what[0] == "in"} == {("in", f"stream {n}") for n in range(4)}
    assert {what for what in cuda.log if what[0] == "wait for"} == {
        ("wait for", f"stream {n}") for n in range(4)
    }
    device.warm(work)  # of another model: its kernels are loaded once for all streams
    assert threads[4:] == [threading.get_ident()]


def test_what_warming_finds_wrong_is_raised_and_no_stream_is_lost(device: Gpu) -> None:
    def work() -> None:
        raise ValueError("no such kernel")

    with pytest.raises(ValueError, match="no such kernel"):
        device.warm(work)
    with device.stream(), ThreadPoolExecutor(1) as other:
        other.submit(lambda: device.stream().__enter__()).result(timeout=10)


class AcceleratorError(RuntimeError):
    """Torch's own, by its name."""


class OutOfMemoryError(RuntimeError):
    """Torch's own, by its name."""


NO_MEMORY = [
    OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
]
OTHERS = [
    AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    RuntimeError("CUDA driver error: device not ready"),
    AcceleratorError("CUDA error: invalid configuration argument"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_without_memory_the_batch_is_halved_whatever_it_is_called(
    cuda: FakeCuda, device: Gpu, error: RuntimeError
) -> None:
    found = of_batch(error)
    assert isinstance(found, OutOfMemory)
    assert device.confirmed(found) is found
    assert cuda.emptied == 1  # what the allocator holds free is let go before the halves are tried


@pytest.mark.parametrize("error", OTHERS, ids=str)
@pytest.mark.parametrize("lives", [True, False])
def test_only_what_the_device_does_not_get_over_ends_it(
    monkeypatch: pytest.MonkeyPatch, device: Gpu, error: RuntimeError, *, lives: bool
) -> None:
    monkeypatch.setattr(gpu, "computes", lambda _: lives)
    found = of_batch(error)
    assert isinstance(found, DeviceFailed)
    assert device.confirmed(found) is (None if lives else found)


def test_a_device_that_says_it_has_no_memory_and_does_nothing_more_has_failed(
    monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda, device: Gpu
) -> None:
    monkeypatch.setattr(gpu, "computes", lambda _: False)
    assert isinstance(device.confirmed(OutOfMemory("none")), DeviceFailed)
    monkeypatch.setattr(gpu, "computes", lambda _: True)

    def broken() -> None:
        raise AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(cuda, "empty_cache", broken)
    assert isinstance(device.confirmed(OutOfMemory("none")), DeviceFailed)


@pytest.mark.parametrize(
    ("error", "lives"),
    [(None, True), (NO_MEMORY[0], True), (NO_MEMORY[1], True), (OTHERS[0], False), (OTHERS[1], False)],
)
def test_a_device_lives_where_it_computes_or_has_no_memory_to(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError | None, *, lives: bool
) -> None:
    assert gpu.computes(CPU)

    def ones(*_: object, **__: object) -> torch.Tensor:
        raise error or AssertionError

    if error is not None:
        monkeypatch.setattr(torch, "ones", ones)
    assert gpu.computes(CPU) is lives


def test_an_error_of_our_own_is_none_of_the_devices() -> None:
    assert of_batch(RuntimeError("shape mismatch")) is None


def test_memory_is_what_tensors_take_and_what_is_held(device: Gpu) -> None:
    assert device.memory() == {"graphs": 0, "allocated": 3, "reserved": 5, "locked": 0}
