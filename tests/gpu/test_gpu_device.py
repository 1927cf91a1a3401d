"""What only a GPU shows of how the runtime uses it: kernels, streams, precision, memory, failures, bits."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.attention.blocks import view_of
from models.attention.problem import Heads, prepare
from models.attention.ragged.choice import ragged_name
from models.attention.tiles import backend as tiles
from models.attention.torch_private import halves_multiply
from models.compiled.extents import Extent
from models.compiled.rules import ScoreRule
from models.device.capacity import available_bytes
from models.device.gpu import Gpu
from models.device.locked import LockedMemory, locked_memory
from models.device.products import is_fine
from models.device.staging import begin_copy, settle, to_device
from models.errors import SpecError
from models.mechanism import AttentionSpec
from models.outputs import ALIASES, DtypeName
from models.runtime import TorchRuntime
from tests.gpu.test_gpu import DEVICE, TOLERANCES, answers, assert_close, cpu, folder, gpu, items  # noqa: F401

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

CARD = torch.device(DEVICE)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("width", [16, 64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_attended_by_flash_attention(dtype: torch.dtype, width: int, group: int) -> None:
    """Also grouped ones: in torch 2.11 the public function knew nothing of them, and nobody noticed."""
    assert ragged_name(CARD, dtype, width, group) == "torch.flash_attention"


@pytest.mark.parametrize("width", [16, 64, 128, 320])
def test_float32_is_attended_by_the_memory_efficient_kernel(width: int) -> None:
    assert ragged_name(CARD, torch.float32, width, 1) == "torch.memory_efficient_attention"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_halves_are_those_of_float32(dtype: torch.dtype) -> None:
    assert halves_multiply(CARD, dtype)
    chance = torch.Generator().manual_seed(2)
    q, k = (torch.randn(heads, 70, 64, generator=chance).to(CARD, dtype) for heads in (8, 2))
    problem = prepare(q, k, k, spec=AttentionSpec(causal=True))
    view = view_of(problem)
    (block,) = view.blocks()
    expected = torch.einsum("htd,hsd->hts", q.double(), k.double().repeat_interleave(4, 0)) * problem.scale
    seen = torch.ones(70, 70, dtype=torch.bool, device=CARD).tril()
    found = view.scores(block).scores
    torch.testing.assert_close(found[:, seen].double(), expected[:, seen], rtol=1e-5, atol=1e-5)


def test_float32_products_are_float32(gpu: TorchRuntime) -> None:  # noqa: F811
    assert is_fine(CARD)


SCRIPT = """
import sys, torch
from models.runtime import TorchRuntime
from models.device.products import is_fine
TorchRuntime(None, models=(), device="cuda", dtype=sys.argv[1])
print(is_fine(torch.device("cuda")))
"""


@pytest.mark.parametrize(("dtype", "fine"), [("float32", "True"), ("tf32", "False")])
def test_tf32_is_what_is_asked_for_by_name_whatever_the_environment_says(dtype: str, fine: str) -> None:
    environment = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [
            "env",
            *(f"{name}={value}" for name, value in environment.items()),
            sys.executable,
            "-c",
            SCRIPT,
            dtype,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == fine


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match=r"cuda:99 was asked for, but torch sees"):
        TorchRuntime(None, models=(), device="cuda:99", dtype="float32")


def test_batches_of_many_threads_run_in_as_many_streams_as_there_are_slots(
    gpu: TorchRuntime,  # noqa: F811
    cpu: TorchRuntime,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[int] = set()
    entered: Callable[..., object] = Gpu.entered

    def noting(device: Gpu, stream: torch.cuda.Stream) -> object:
        seen.add(stream.cuda_stream)
        return entered(device, stream)

    monkeypatch.setattr(Gpu, "entered", noting)
    batch = items(cpu.card("layer"), ("z", "weights"))
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: answers(gpu, batch), range(64)))
    assert len(seen) <= gpu.slots


def test_a_short_batch_between_two_steps_of_a_long_one_changes_neither(
    gpu: TorchRuntime,  # noqa: F811
    cpu: TorchRuntime,  # noqa: F811
) -> None:
    long = items(cpu.card("encoder"), ("z", "weights"), lengths=(150, 130))
    short = items(cpu.card("layer"), ("z",), lengths=(9,))
    expected, beside = answers(gpu, long), answers(gpu, short)
    steps = gpu.steps([replace(one, card=gpu.card("encoder")) for one in long])
    try:
        while True:
            next(steps)
            assert_close(answers(gpu, short)[0], beside[0], 1e-6)
    except StopIteration as end:
        found = end.value.answers
    for one, other in zip(found, expected, strict=True):
        assert_close(one.tensors, other, 1e-6)


@pytest.mark.parametrize("name", ["layer", "encoder", "decoder"])
def test_bits_repeat_beside_a_busy_stream(
    gpu: TorchRuntime,  # noqa: F811
    cpu: TorchRuntime,  # noqa: F811
    name: str,
) -> None:
    """What `deterministic` promises, 200 times, while another batch is on the device."""
    alone = items(cpu.card(name), ("z", "weights"), lengths=(64,))
    busy = items(cpu.card(name), ("z", "weights"), lengths=(130, 90, 64, 17))
    (first,) = answers(gpu, alone)
    with ThreadPoolExecutor(1) as other:
        for _ in range(200):
            beside = other.submit(answers, gpu, busy)
            (again,) = answers(gpu, alone)
            beside.result()
            assert {key: one.tobytes() for key, one in again.items()} == {
                key: one.tobytes() for key, one in first.items()
            }


def test_arrays_go_there_and_come_back_as_they_were() -> None:
    for nbytes in (1, 64, 4097, 3_000_001):
        raw = np.random.default_rng(nbytes).integers(0, 256, nbytes).astype(np.uint8)
        copied = begin_copy(to_device([raw[:1], raw[1:]], CARD, torch.uint8))
        settle(CARD)
        assert np.array_equal(copied, raw)
        assert copied.nbytes == nbytes


def test_locked_memory_is_locked_exact_and_given_back(gpu: TorchRuntime) -> None:  # noqa: F811
    pool = LockedMemory(most=1 << 24)
    held = pool.take(5_000_000)
    assert held is not None
    assert torch.from_numpy(held).is_pinned()
    assert pool.nbytes - 5_000_000 < 4096
    assert pool.take(1 << 24) is None
    before = locked_memory().nbytes
    array = begin_copy(torch.zeros(9_000_000, dtype=torch.uint8, device=CARD))
    settle(CARD)
    assert gpu.memory()["locked"] == locked_memory().nbytes >= before
    del array, held
    for one in (pool, locked_memory()):
        one.give_back()
        assert one.nbytes == 0


def test_beyond_what_may_be_locked_copies_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked_memory(), "_most", 0)
    locked_memory().give_back()
    given = torch.arange(300_000, device=CARD)
    assert np.array_equal(begin_copy(given.view(torch.uint8)).view(np.int64), given.cpu().numpy())
    assert torch.equal(to_device([given.cpu().numpy()], CARD, torch.int64), given)


def test_what_the_allocator_holds_free_counts_as_free() -> None:
    torch.cuda.empty_cache()
    before = available_bytes(CARD)
    large = torch.empty(1 << 30, dtype=torch.uint8, device=CARD)
    during = available_bytes(CARD)
    del large
    after = available_bytes(CARD)
    assert before is not None
    assert during is not None
    assert after is not None
    assert during <= before - (1 << 30)
    assert after >= before - (1 << 26)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (1,), (130, 1)])
def test_sequences_of_one_token_are_what_the_cpu_gives(
    gpu: TorchRuntime,  # noqa: F811
    cpu: TorchRuntime,  # noqa: F811
    lengths: tuple[int, ...],
) -> None:
    """Grouped heads of one token each some kernels take by a path of their own."""
    for name in ("layer", "llama", "encoder"):
        batch = items(cpu.card(name), ("z", "weights", "lse"), lengths=lengths)
        for actual, expected in zip(answers(gpu, batch), answers(cpu, batch), strict=True):
            assert_close(actual, expected, TOLERANCES[gpu.card(name).dtype])


OF_SCORES = ("weights", "weights_mean", "entropy", *ALIASES["top_k"], "received", "lse")


@pytest.mark.parametrize("chosen", [{}, {"heads": (2, 0), "rows": (0,)}], ids=["all", "some heads and rows"])
@pytest.mark.parametrize("reply", TOLERANCES)
@pytest.mark.parametrize("name", ["encoder", "decoder", "llama", "alibi"])
def test_what_is_made_of_scores_is_right_in_the_dtype_of_the_reply(
    gpu: TorchRuntime,  # noqa: F811
    cpu: TorchRuntime,  # noqa: F811
    name: str,
    reply: DtypeName,
    chosen: dict[str, Any],
) -> None:
    """It is written by kernels, where the answers of the batch are gathered."""
    batch = [
        replace(one, selection=replace(one.selection, mix=None, share=None, dtype=reply, **chosen))
        for one in items(cpu.card(name), OF_SCORES)
    ]
    in_float32 = [replace(one, selection=replace(one.selection, dtype="float32")) for one in batch]
    tolerance = max(TOLERANCES[reply], TOLERANCES[gpu.card(name).dtype])
    for actual, expected in zip(answers(gpu, batch), answers(cpu, in_float32), strict=True):
        wide = {key: in_full(array) for key, array in actual.items()}
        assert_close(wide, expected, tolerance)


def in_full(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return floats in float32; uint16 are bit patterns of bfloat16."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array if array.dtype == np.int32 else array.astype(np.float32)


@pytest.mark.parametrize("outputs", [("z", *ALIASES["top_k"]), ("z", "lse"), ("entropy", "received")])
def test_more_sequences_are_no_more_launches(
    gpu: TorchRuntime,  # noqa: F811
    cpu: TorchRuntime,  # noqa: F811
    outputs: tuple[str, ...],
) -> None:
    card, counts = cpu.card("layer"), []
    for count in (2, 2, 100):
        batch = items(card, outputs, lengths=[5 + place % 60 for place in range(count)])
        batch = [replace(one, selection=replace(one.selection, mix=None, share=None)) for one in batch]
        answers(gpu, batch)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            answers(gpu, batch)
        events = [event.name.lower() for event in seen.events()]
        counts.append(sum(not event.startswith(("mem", "cuda")) for event in events))
    assert counts[1]
    assert counts[2] <= counts[1] + 2  # a product of more rows may be two kernels


def test_a_key_that_a_mask_hides_may_hold_anything(gpu: TorchRuntime) -> None:  # noqa: F811
    heads = Heads(CARD, torch.bfloat16, 4, 2, 64, 64)
    if not tiles.takes(heads, 200, 200):
        pytest.skip("kernels in tiles do not run here")
    chance = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(200, count, 64, generator=chance).to(CARD, torch.bfloat16) for count in (4, 2, 2))
    mask = (torch.arange(200, device=CARD) % 5 != 3)[None, None]
    own = {"scale": 0.125, "rule": ScoreRule(), "reads_z": True}
    expected = tiles.attend_packed(q, k, v, [Extent(slice(0, 200), mask=mask)], **own)
    v[~mask[0, 0]] = torch.nan
    k[~mask[0, 0]] = torch.inf
    found = tiles.attend_packed(q, k, v, [Extent(slice(0, 200), mask=mask)], **own)
    assert torch.equal(found.z, expected.z)
