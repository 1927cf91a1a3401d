"""On a GPU, the same answers as on the CPU: every output and dtype, ragged batches, too little memory."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from models.attention.ragged.choice import ragged_kernel
from models.errors import OutOfMemory
from models.halves import Numbers, bfloat16_of, widened
from models.mechanism import AttentionSpec, PositionSpec, RotarySpec, ScalingSpec
from models.outputs import OUTPUTS, Mix, Selection, Share
from models.pooling_spec import PoolingSpec, PoolingStep
from models.protocol import QKV, Answer, Item, ModelCard, Tokens
from models.runtime import TorchRuntime
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from service.batching.engine import Engine
from service.batching.job import Completed, Ticket
from service.batching.limits import Limits
from service.errors import HeedError, Unavailable
from tests.queueing import submit
from tests.slow_stack import random_parameters

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

DEVICE = "cuda"
LENGTHS = (5, 1, 130, 64, 17, 2)

# Each relative to the largest number of the output. Half precisions are compared with float32 on the CPU: two
# layers round activations some twenty times, to 8 bits (bfloat16) or 11 (float16).
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

SPECS = {
    "layer": ModelSpec(d_model=48, heads=3),
    "encoder": ModelSpec(
        d_model=64,
        heads=4,
        layers=2,
        residual=True,
        norm=NormSpec(kind="layer"),
        feed_forward=FeedForwardSpec(d_ff=96),
        positions=PositionSpec(kind="learned", max_positions=160),
        pooling=PoolingSpec(steps=(PoolingStep(kind="normalize"),)),
    ),
    "decoder": ModelSpec(
        d_model=64,
        heads=4,
        kv_heads=2,
        layers=2,
        residual=True,
        attention=AttentionSpec(causal=True, left_window=40, softcap=20.0),
        norm=NormSpec(kind="rms", placement="pre", final=True),
        feed_forward=FeedForwardSpec(d_ff=96, kind="gated", activation="silu"),
        positions=PositionSpec(kind="rotary"),
    ),
    # Causal, grouped and turned, and nothing else: one call of a GPU's kernel for all sequences.
    "llama": ModelSpec(
        d_model=256,
        heads=4,
        kv_heads=2,
        layers=2,
        residual=True,
        attention=AttentionSpec(causal=True),
        norm=NormSpec(kind="rms", placement="pre", final=True),
        feed_forward=FeedForwardSpec(d_ff=96, kind="gated", activation="silu"),
        positions=PositionSpec(kind="rotary"),
    ),
    "heads-of-128": ModelSpec(d_model=256, heads=2, attention=AttentionSpec(causal=True)),
    "heads-of-256": ModelSpec(d_model=512, heads=2),
    "heads-of-320": ModelSpec(d_model=640, heads=2),
    "two-windows": ModelSpec(
        d_model=64,
        heads=4,
        layers=3,
        residual=True,
        norm=NormSpec(kind="layer", placement="pre", bias=False, final=True, skip_first=True),
        feed_forward=FeedForwardSpec(d_ff=96, kind="gated", bias=False),
        positions=PositionSpec(
            kind="rotary",
            scaling=ScalingSpec(
                kind="longrope",
                factor=4.0,
                original_positions=50,
                short_factors=(1.0,) * 8,
                long_factors=(2.0,) * 8,
            ),
        ),
        windows=(None, 20, 20),
        right_windows=(None, 20, None),
        rotary=(None, RotarySpec(theta=100.0), None),
    ),
    "shared": ModelSpec(d_model=48, heads=3, layers=3, residual=True, shared=(0, 0, 1)),
    "relative": ModelSpec(
        d_model=48, heads=4, layers=2, positions=PositionSpec(kind="relative", buckets=8, max_distance=32)
    ),
    "alibi": ModelSpec(d_model=48, heads=4, positions=PositionSpec(kind="alibi")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with every specification above."""
    repository = tmp_path_factory.mktemp("repository")
    for name, spec in SPECS.items():
        (repository / name).mkdir()
        (repository / name / "config.json").write_text(json.dumps(spec.to_config()))
        save_file(random_parameters(spec), repository / name / "model.safetensors")
    return repository


@pytest.fixture(scope="module")
def cpu(folder: Path) -> TorchRuntime:
    return TorchRuntime(folder, models=tuple(SPECS), device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=TOLERANCES)
def gpu(folder: Path, request: pytest.FixtureRequest) -> TorchRuntime:
    return TorchRuntime(folder, models=tuple(SPECS), device=DEVICE, dtype=request.param)


def items(card: ModelCard, outputs: Sequence[str], lengths: Sequence[int] = LENGTHS) -> list[Item]:
    chance = np.random.default_rng(3)
    every = tuple(range(card.layers))
    mix = Mix(pairs=tuple((layer, 0) for layer in every), weights=(1.5,) * card.layers, columns=((0, 1),))
    chosen = Selection(outputs=tuple(outputs), layers=every, layer_axis=True, top_k=4, mix=mix)
    return [
        Item(
            card=card,
            input=Tokens(embeddings=chance.standard_normal((length, card.d_model), dtype=np.float32)),
            selection=replace(chosen, share=Share(of=((0, 1),), over=((0, min(2, length)),))),
        )
        for length in lengths
    ]


def answers(runtime: TorchRuntime, batch: Sequence[Item]) -> list[dict[str, NDArray[np.generic]]]:
    """The tensors of each item, the model taken from this runtime."""
    own = [item if item.card is None else replace(item, card=runtime.card(item.card.name)) for item in batch]
    found = runtime.run(own).answers
    assert all(isinstance(answer, Answer) for answer in found), found
    return [answer.tensors for answer in found if isinstance(answer, Answer)]


def assert_close(
    actual: dict[str, NDArray[np.generic]], expected: dict[str, NDArray[np.generic]], tolerance: float
) -> None:
    """Compare all outputs, each relative to its largest number; keys of near ties may change places."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        if name == "top_k_keys":
            continue
        finite = np.abs(array[np.isfinite(array)])
        limit = tolerance * max(1.0, float(finite.max(initial=0)))
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=limit, err_msg=name)
    if {"top_k_keys", "weights"} <= expected.keys():
        k = min(actual["top_k_keys"].shape[-1], expected["weights"].shape[-1])
        there = np.take_along_axis(expected["weights"], actual["top_k_keys"][..., :k].astype(np.int64), -1)
        np.testing.assert_allclose(there, expected["top_k_weights"][..., :k], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_every_output_of_a_ragged_batch_is_what_the_cpu_gives(
    gpu: TorchRuntime, cpu: TorchRuntime, name: str
) -> None:
    batch = items(cpu.card(name), cpu.card(name).outputs)
    tolerance = TOLERANCES[gpu.card(name).dtype]
    for actual, expected in zip(answers(gpu, batch), answers(cpu, batch), strict=True):
        assert_close(actual, expected, tolerance)


@pytest.mark.parametrize("name", SPECS)
def test_a_sequence_alone_is_what_it_is_in_a_batch(gpu: TorchRuntime, cpu: TorchRuntime, name: str) -> None:
    batch = items(cpu.card(name), ("z", "weights", "lse"))
    together = answers(gpu, batch)
    tolerance = TOLERANCES[gpu.card(name).dtype]
    for item, expected in zip(batch, together, strict=True):
        assert_close(answers(gpu, [item])[0], expected, tolerance)


def test_masks_and_memory_hold_on_the_gpu(gpu: TorchRuntime, cpu: TorchRuntime) -> None:
    chance = np.random.default_rng(4)
    plain = items(cpu.card("layer"), ("z", "weights", "entropy"), lengths=(9,))[0]
    masked = replace(plain.input, mask=chance.random((9, 9)) < 0.5)
    empty_row = masked.mask.copy()
    empty_row[3] = False
    memory = chance.standard_normal((23, 48), dtype=np.float32)
    batch = [
        replace(plain, input=masked),
        replace(plain, input=replace(masked, mask=empty_row)),
        replace(plain, input=replace(plain.input, memory=memory)),
    ]
    found = answers(gpu, batch)
    for actual, expected in zip(found, answers(cpu, batch), strict=True):
        assert_close(actual, expected, TOLERANCES[gpu.card("layer").dtype])
    assert not found[1]["weights"][..., 3, :].any()


def test_the_callers_own_q_k_v_are_attended_in_float32(gpu: TorchRuntime, cpu: TorchRuntime) -> None:
    chance = np.random.default_rng(5)
    q, k, v = (
        chance.standard_normal(shape, dtype=np.float32) for shape in ((6, 40, 16), (3, 70, 16), (3, 70, 8))
    )
    given = QKV(query=q, key=k, value=v, rule=AttentionSpec(causal=True, causal_offset=30))
    outputs = tuple(name for name, output in OUTPUTS.items() if not output.needs)
    item = Item(card=None, input=given, selection=Selection(outputs=outputs, top_k=4))
    assert_close(answers(gpu, [item])[0], answers(cpu, [item])[0], TOLERANCES["float32"])


def halves(array: NDArray[np.float32]) -> list[Numbers]:
    """The same in float16 and in bfloat16, cut off."""
    cut = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
    return [array.astype(np.float16), bfloat16_of(cut)]


def test_numbers_of_16_bits_are_answered_bit_by_bit_as_their_float32(
    gpu: TorchRuntime, cpu: TorchRuntime
) -> None:
    """Also in a batch of several dtypes, and as memories."""
    whole = items(cpu.card("encoder"), ("z", "weights"))
    crossed = items(cpu.card("layer"), ("z", "weights"))
    for one in range(2):
        for batch in (whole, crossed):
            sent = []
            for place, item in enumerate(batch):
                x = halves(item.input.embeddings)[(one + place) % 2 if batch is whole else one]
                memory = halves(batch[0].input.embeddings)[one] if batch is crossed and place else None
                sent.append(replace(item, input=Tokens(embeddings=x, memory=memory)))
            wide = [
                replace(
                    item,
                    input=Tokens(
                        embeddings=widened(item.input.embeddings),
                        memory=None if item.input.memory is None else widened(item.input.memory),
                    ),
                )
                for item in sent
            ]
            for found, expected in zip(answers(gpu, sent), answers(gpu, wide), strict=True):
                for name, array in expected.items():
                    assert found[name].tobytes() == array.tobytes(), name


def test_the_callers_own_halves_are_attended_as_their_float32(gpu: TorchRuntime) -> None:
    chance = np.random.default_rng(6)
    arrays = [chance.standard_normal((4, 20, 16), dtype=np.float32) for _ in "qkv"]
    bias = chance.standard_normal((4, 20, 20), dtype=np.float32)
    for q, k, v, mask in zip(*(halves(one) for one in (*arrays, bias)), strict=True):
        chosen = Selection(outputs=("z", "weights", "entropy"))
        narrow = QKV(query=q, key=k, value=v, mask=mask)
        wide = QKV(query=widened(q), key=widened(k), value=widened(v), mask=widened(mask))
        found, expected = (
            answers(gpu, [Item(card=None, input=one, selection=chosen)])[0] for one in (narrow, wide)
        )
        assert {name: one.tobytes() for name, one in found.items()} == {
            name: one.tobytes() for name, one in expected.items()
        }


@pytest.mark.parametrize("name", SPECS)
def test_a_sequence_alone_is_bit_equal_every_time(gpu: TorchRuntime, cpu: TorchRuntime, name: str) -> None:
    """What `deterministic` rests on: the engine runs such a sequence alone."""
    batch = items(cpu.card(name), cpu.card(name).outputs)
    first = answers(gpu, batch[2:3])
    answers(gpu, batch)
    (again,) = answers(gpu, batch[2:3])
    assert {key: array.tobytes() for key, array in again.items()} == {
        key: array.tobytes() for key, array in first[0].items()
    }


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_ragged_batch_has_a_kernel_that_takes_it_at_once(
    dtype: torch.dtype, width: int, group: int
) -> None:
    assert ragged_kernel(torch.device(DEVICE), dtype, width, group) is not None


@pytest.mark.parametrize("name", SPECS)
def test_batches_side_by_side_are_what_each_is_alone(gpu: TorchRuntime, cpu: TorchRuntime, name: str) -> None:
    """Each slot's thread has a stream of its own; neither reads what the other has not finished."""
    batches = [
        items(cpu.card(name), ("z", "weights", "top_k_weights"), [length, *LENGTHS]) for length in (90, 7, 33)
    ]
    expected = [answers(gpu, batch) for batch in batches]
    with ThreadPoolExecutor(gpu.slots) as threads:
        found = list(threads.map(lambda batch: answers(gpu, batch), batches * 20))
    tolerance = TOLERANCES[gpu.card(name).dtype]
    for place, batch in enumerate(found):
        for actual, one in zip(batch, expected[place % len(batches)], strict=True):
            assert_close(actual, one, tolerance)


@pytest.fixture
def scarce() -> Iterator[int]:
    """Leave 256 MiB of device memory to torch beyond what it holds; yields bytes that do not fit."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 2**28
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        yield room
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def too_large(card: ModelCard) -> Item:
    """An item whose weights alone take 3 · 8192² · 4 bytes: 768 MiB."""
    return items(card, ("weights",), lengths=(8192,))[0]


@pytest.mark.usefixtures("scarce")
def test_after_out_of_memory_the_device_answers_as_before(gpu: TorchRuntime, cpu: TorchRuntime) -> None:
    card = gpu.card("layer")
    small = items(card, ("z", "weights"))
    before = answers(gpu, small)
    held = torch.cuda.memory_allocated()
    with pytest.raises(OutOfMemory):
        gpu.run([*small, too_large(card)])
    for actual, expected in zip(answers(gpu, small), before, strict=True):
        assert_close(actual, expected, TOLERANCES[card.dtype])
    assert torch.cuda.memory_allocated() <= held  # nothing of the failed batch is kept alive


@pytest.mark.usefixtures("scarce")
def test_out_of_memory_fails_only_the_request_that_is_too_large(gpu: TorchRuntime) -> None:
    card = gpu.card("layer")
    small = items(card, ("z", "weights"))
    before = answers(gpu, small)
    deaths: list[BaseException] = []
    limits = Limits(max_result_bytes=2**31, max_queued_result_bytes=2**32)
    engine = Engine(gpu, limits, on_batch=lambda _: None, on_fatal=deaths.append)

    async def outcome(ticket: Ticket) -> Completed | HeedError:
        try:
            return await ticket.result()
        except HeedError as error:
            return error
        finally:
            ticket.cancel()

    async def main() -> list[Completed | HeedError]:
        tickets = [submit(engine, [item]) for item in (*small[:3], too_large(card), *small[3:])]
        return [await outcome(ticket) for ticket in tickets]

    engine.start()
    try:
        outcomes = asyncio.run(main())
    finally:
        assert engine.stop(60)
    failed = outcomes.pop(3)
    assert isinstance(failed, Unavailable)
    assert failed.code == "out_of_memory"
    assert not deaths
    for done, expected in zip(outcomes, before, strict=True):
        assert isinstance(done, Completed)
        assert_close(done.answers[0].tensors, expected, TOLERANCES[card.dtype])
