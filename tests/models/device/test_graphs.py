"""Blocks of small batches are CUDA graphs: shown on a processor whose graphs are operators done again."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.attention import backends, sequence
from models.attention.ragged import choice
from models.attention.ragged.batch import Batch
from models.attention.tiles import backend as tiles
from models.attention.tiles.table import SequenceTable
from models.compiled import native
from models.compiled.extents import AttentionResult
from models.compiled.rules import ScoreRule
from models.device import graphs
from models.device.gpu import Gpu, Streams
from models.device.graphs import kept_bytes
from models.device.packed import PackedCollector
from models.edit import Edit
from models.encoder import linear
from models.encoder.graphs import making
from models.encoder.graphs import shapes as shapes_module
from models.encoder.graphs.frame import Frame
from models.encoder.graphs.shapes import PLACES, TOKENS, GraphShape, fitting, shapes
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec, RotarySpec, ScalingSpec
from models.outputs import Selection
from models.pooling_spec import PoolingSpec, PoolingStep
from models.protocol import Answer, Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of
from tests.models.device.fake_cuda import FakeCuda
from tests.models.device.fake_graphs import FakeGraph
from tests.slow_stack import random_parameters

CPU = torch.device("cpu")
ENCODER = ModelSpec(
    d_model=16,
    heads=4,
    layers=4,
    residual=True,
    norm=NormSpec(kind="layer"),
    feed_forward=FeedForwardSpec(d_ff=24),
    pooling=PoolingSpec(steps=(PoolingStep(kind="normalize"),)),
)
DECODER = replace(
    ENCODER,
    kv_heads=2,
    norm=NormSpec(kind="rms", placement="pre", final=True),
    attention=AttentionSpec(causal=True),
    positions=PositionSpec(kind="rotary"),
    feed_forward=FeedForwardSpec(d_ff=24, kind="gated", activation="silu"),
)
LONG_ROPE = ScalingSpec(
    kind="longrope",
    attention_factor=1.4,
    original_positions=20,
    short_factors=(1.0, 0.5),
    long_factors=(2.0, 0.25),
)
SPECS = {
    "encoder": ENCODER,
    "decoder": DECODER,
    "two angles, one by length": replace(
        DECODER,
        rotary=(RotarySpec(theta=9.0), RotarySpec(scaling=LONG_ROPE), RotarySpec(theta=9.0), RotarySpec()),
    ),
    "windows in some layers": replace(
        ENCODER,
        windows=(None, 3, 3, None),
        right_windows=(None, 2, 2, None),
    ),
    "a cap on scores": replace(DECODER, attention=AttentionSpec(causal=True, softcap=2.0)),
}

library = torch.library.Library("heed_tests", "DEF")
library.define("packed(Tensor q, Tensor k, Tensor v, Tensor begins, float scale, bool causal) -> Tensor")
library.define(
    "tabled(Tensor q, Tensor k, Tensor v, Tensor table, Tensor at, float scale, Scalar[] rule) -> Tensor"
)


def attended(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    spans: Sequence[tuple[int, int]],
    scale: float,
    rule: Any,
) -> torch.Tensor:
    """As it is written, of each span of rows; others are not written."""
    z = torch.full((*q.shape[:2], v.shape[2]), torch.nan)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    low, high, softcap = rule
    for start, end in spans:
        scores = scale * torch.einsum("thd,shd->hts", q[start:end], k[start:end])
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        ahead = torch.arange(end - start) - torch.arange(end - start)[:, None]
        scores = scores.masked_fill((ahead < low) | (ahead > high), -torch.inf)
        z[start:end] = torch.einsum("hts,shd->thd", scores.softmax(-1), v[start:end])
    return z


FAR = 1 << 20


def packed(q: Any, k: Any, v: Any, begins: torch.Tensor, scale: float, causal: bool) -> torch.Tensor:
    ends = begins.tolist()
    return attended(q, k, v, list(itertools.pairwise(ends)), scale, (-FAR, 0 if causal else FAR, 0))


def tabled(
    q: Any, k: Any, v: Any, table: torch.Tensor, at: torch.Tensor, scale: float, rule: Any
) -> torch.Tensor:
    rows = table.tolist()
    assert all(row[:2] == row[2:4] for row in rows)
    for start, count, *_ in rows:
        assert at[start : start + count].tolist() == list(range(count))
    return attended(q, k, v, [(start, start + count) for start, count, *_ in rows], scale, rule)


library.impl("packed", packed, "CompositeExplicitAutograd")
library.impl("tabled", tabled, "CompositeExplicitAutograd")


def by_rows(q: Any, k: Any, v: Any, batch: Batch, *, scale: float, causal: bool) -> AttentionResult:
    z = torch.ops.heed_tests.packed(q, k, v, batch.cu_seqlens, scale, causal)
    nothing: list[torch.Tensor | None] = [None] * len(batch.lengths)
    return AttentionResult(z, nothing, nothing)


def by_table(q: Any, k: Any, v: Any, table: SequenceTable, *, scale: float, rule: ScoreRule) -> torch.Tensor:
    low, high = (-FAR if rule.low is None else rule.low), (FAR if rule.high is None else rule.high)
    limits = [low, high, rule.softcap or 0]
    return torch.ops.heed_tests.tabled(q, k, v, table.rows, table.positions, scale, limits)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without compiled code, on which kernels of a GPU are: each one operator."""
    monkeypatch.setattr(native, "load_native", lambda: None)
    monkeypatch.setattr(linear, "_fastest", {})
    monkeypatch.setattr(
        linear, "_best_seconds", lambda kernels, _: {name: float(name != "torch") for name in kernels}
    )
    monkeypatch.setattr(choice, "ragged_kernel", lambda *_: by_rows)
    monkeypatch.setattr(tiles, "takes", lambda *_: True)
    monkeypatch.setattr(tiles, "attend_table", by_table)
    monkeypatch.setattr(tiles, "attend_packed", of_extents)
    monkeypatch.setattr(
        backends, "made_beside", lambda _: False
    )  # what is asked beside z the reference makes
    monkeypatch.setattr(shapes_module, "TOKENS", (64, 128))
    monkeypatch.setattr(sequence, "collector_of", PackedCollector)


def of_extents(
    q: Any, k: Any, v: Any, extents: Any, *, scale: float, rule: ScoreRule, **_: Any
) -> AttentionResult:
    """What is not replayed comes to the same."""
    low, high = (-FAR if rule.low is None else rule.low), (FAR if rule.high is None else rule.high)
    spans = [(one.rows.start, one.rows.stop) for one in extents]
    z = attended(q, k, v, spans, scale, (low, high, rule.softcap or 0))
    return AttentionResult(z, [None] * len(spans), [None] * len(spans))


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def gpu(cuda: FakeCuda) -> Gpu:
    return Gpu(CPU, slots=2, cuda=cuda)


def stack_of(spec: ModelSpec) -> Stack:
    parameters = {name: torch.from_numpy(array) for name, array in random_parameters(spec, 3).items()}
    return Stack(spec, parameters, CPU)


def batch_of(spec: ModelSpec, lengths: Sequence[int], **chosen: Any) -> list[Item]:
    chance = np.random.default_rng(5)
    return [
        Item(
            card=card_of(spec, max_tokens=200),
            input=Tokens(embeddings=chance.standard_normal((length, spec.d_model), dtype=np.float32)),
            selection=Selection(**chosen),
        )
        for length in lengths
    ]


def run(stack: Stack, gpu: Gpu, batch: Sequence[Item], *, slot: int = 0, urgent: bool = False) -> list[Any]:
    streams = gpu.pairs[slot]
    with gpu.entered(streams.urgent if urgent else streams.batch), torch.inference_mode():
        answers = stack.run(batch)
    return [one.tensors if isinstance(one, Answer) else one for one in answers]


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-5)


def replayed(cuda: FakeCuda) -> int:
    count = sum(one.replayed for one in cuda.graphs)
    for one in cuda.graphs:
        one.replayed = 0
    return count


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return SPECS[request.param]


ALL = {"outputs": ("hidden", "pooled"), "layers": (0, 1, 2, 3), "layer_axis": True}


@pytest.mark.parametrize("lengths", [(64,), (1,), (5, 1, 40, 2), (3,) * 30, (100, 28), (65,)])
def test_a_batch_that_is_replayed_gives_what_it_gives_launch_by_launch(
    spec: ModelSpec, gpu: Gpu, cuda: FakeCuda, lengths: tuple[int, ...]
) -> None:
    stack = stack_of(spec)
    expected = run(stack, gpu, batch_of(spec, lengths, **ALL))
    stack.record(gpu, card_of(spec, max_tokens=200))
    replayed(cuda)
    for slot in (0, 1, 0):
        assert_same(run(stack, gpu, batch_of(spec, lengths, **ALL), slot=slot), expected)
        assert replayed(cuda) == spec.layers
    assert all(one.mode == "thread_local" for one in cuda.graphs)


@pytest.fixture
def stack(gpu: Gpu, cuda: FakeCuda) -> Stack:
    made = stack_of(ENCODER)
    made.record(gpu, card_of(ENCODER, max_tokens=200))
    replayed(cuda)
    return made


def test_a_layer_of_which_more_is_asked_goes_launch_by_launch_and_no_other(
    stack: Stack, gpu: Gpu, cuda: FakeCuda
) -> None:
    for outputs, layers, count in (
        (("weights", "hidden"), (1,), 1),
        (("z",), (0, 3), 2),
        (("mid",), (2,), 2),
        (("residual",), (2,), 3),
        (("entropy", "pooled"), (3,), 3),
        (("embedded", "pooled"), (3,), 1),  # all layers at once
        (("residual", "hidden"), (2, 3), 4),
    ):
        batch = batch_of(ENCODER, (7, 20), outputs=outputs, layers=layers, layer_axis=len(layers) > 1)
        found = run(stack, gpu, batch)
        assert replayed(cuda) == count, outputs
        assert_same(found, run(stack_of(ENCODER), gpu, batch))


def test_sequences_that_leave_are_not_replayed_and_those_that_stay_are(
    stack: Stack, gpu: Gpu, cuda: FakeCuda
) -> None:
    batch = [
        *batch_of(ENCODER, (7,), outputs=("hidden",), layers=(1,)),
        *batch_of(ENCODER, (9, 60), outputs=("pooled",), layers=(3,)),
        *batch_of(ENCODER, (4,), outputs=("weights",), layers=(2,)),
    ]
    found = run(stack, gpu, batch)
    assert replayed(cuda) == 3
    for one, item in zip(found, batch, strict=True):
        assert_same([one], run(stack_of(ENCODER), gpu, [item]))


def test_a_layer_in_which_a_head_is_silenced_goes_launch_by_launch(
    stack: Stack, gpu: Gpu, cuda: FakeCuda
) -> None:
    plain, beside = batch_of(ENCODER, (7, 20), outputs=("hidden",), layers=(3,))
    edited = [replace(plain, edits=(Edit(verb="scale", at=((1, 0), (1, 2)), value=0.0),)), beside]
    found = run(stack, gpu, edited)
    assert replayed(cuda) == 3
    assert_same(found, run(stack_of(ENCODER), gpu, edited))
    assert not np.allclose(found[0]["hidden"], run(stack, gpu, [plain])[0]["hidden"])


def test_a_mask_of_one_sequence_is_read_launch_by_launch(stack: Stack, gpu: Gpu, cuda: FakeCuda) -> None:
    plain = batch_of(ENCODER, (7, 20), outputs=("hidden",), layers=(3,))
    mask = np.arange(7) > 2
    masked = [replace(plain[0], input=replace(plain[0].input, mask=mask)), plain[1]]
    assert_same(run(stack, gpu, masked), run(stack_of(ENCODER), gpu, masked))
    assert replayed(cuda) == 0


def test_larger_batches_and_more_sequences_go_launch_by_launch(
    stack: Stack, gpu: Gpu, cuda: FakeCuda
) -> None:
    batch = batch_of(ENCODER, (64, 65), outputs=("pooled",), layers=(3,))
    assert_same(run(stack, gpu, batch), run(stack_of(ENCODER), gpu, batch))
    assert replayed(cuda) == 0


def test_a_graph_runs_in_the_stream_it_was_recorded_in_alone(stack: Stack, gpu: Gpu, cuda: FakeCuda) -> None:
    """What a long batch has queued in its own stream may not share memory with what goes between."""
    batch = batch_of(ENCODER, (9,), outputs=("pooled",), layers=(3,))
    expected = run(stack, gpu, batch)
    assert replayed(cuda) == 1
    assert_same(run(stack, gpu, batch, urgent=True), expected)
    assert replayed(cuda) == 0


def test_batches_of_two_slots_do_not_meet(stack: Stack, gpu: Gpu, cuda: FakeCuda) -> None:
    batches = [batch_of(ENCODER, lengths, **ALL) for lengths in ((9, 3), (50,))]
    expected = [run(stack_of(ENCODER), gpu, one) for one in batches]
    steps = []
    for place, one in enumerate(batches):
        steps.append((gpu.pairs[place].batch, stack.steps(one)))
    ends: dict[int, Any] = {}
    while len(ends) < len(steps):  # a step of each in turn
        for place, (stream, own) in enumerate(steps):
            try:
                with gpu.entered(stream), torch.inference_mode():
                    if place not in ends:
                        next(own)
            except StopIteration as end:
                ends[place] = end.value
    for place in ends:
        assert_same([one.tensors for one in ends[place]], expected[place])
    assert replayed(cuda) == 8


def test_graphs_are_made_for_as_many_tokens_as_the_device_computes_before_the_host_has_launched(
    gpu: Gpu, cuda: FakeCuda
) -> None:
    times: Iterator[float] = iter([0.0, 1e9, 0.0, 1e9])
    cuda.elapsed = lambda: next(times)
    stack = stack_of(ENCODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    run(stack, gpu, batch_of(ENCODER, (64,), **ALL))
    run(stack, gpu, batch_of(ENCODER, (64, 1), **ALL))
    cuda.elapsed = lambda: 1e9
    slow = stack_of(ENCODER)
    slow.record(gpu, card_of(ENCODER, max_tokens=200))
    assert slow.graphs is None


def refusing(at: int, error: Exception) -> Any:
    def refuses(number: int) -> None:
        if number >= at:
            raise error

    return refuses


def test_where_memory_ends_there_are_the_graphs_that_were_made_before(
    gpu: Gpu, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.refuses = refusing(5, torch.OutOfMemoryError("CUDA out of memory"))  # in the second shape of a slot
    stack = stack_of(ENCODER)
    with caplog.at_level(logging.INFO):
        stack.record(gpu, card_of(ENCODER, max_tokens=200))
    assert "no memory for CUDA graphs of 128 tokens" in caplog.text
    assert all(one.ended for one in cuda.graphs)
    batch = batch_of(ENCODER, (64,), **ALL)
    assert_same(run(stack, gpu, batch), run(stack_of(ENCODER), gpu, batch))


def test_what_cannot_be_recorded_is_launched_and_the_log_says_so(
    gpu: Gpu, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.refuses = refusing(2, RuntimeError("operation not permitted when stream is capturing"))
    stack = stack_of(ENCODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    assert "is served without CUDA graphs: operation not permitted" in caplog.text
    assert stack.graphs is None
    assert all(one.ended for one in cuda.graphs)
    assert len(gpu._free) == 2


def test_graphs_that_do_not_give_what_they_were_recorded_of_are_not_used(
    gpu: Gpu, cuda: FakeCuda, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = making._replayed
    monkeypatch.setattr(making, "_replayed", lambda made: before(made) + 0.1)
    stack = stack_of(ENCODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    assert "do not give what they were recorded of" in caplog.text
    assert stack.graphs is None


def test_a_model_whose_scores_have_biases_of_each_sequence_has_no_graphs(gpu: Gpu, cuda: FakeCuda) -> None:
    spec = replace(ENCODER, positions=PositionSpec(kind="alibi"))
    stack = stack_of(spec)
    stack.record(gpu, card_of(spec, max_tokens=200))
    assert stack.graphs is None
    assert not cuda.graphs


def test_while_graphs_of_a_slot_are_recorded_batches_run_in_the_other_and_the_slot_comes_at_its_turn(
    gpu: Gpu,
) -> None:
    first, second = gpu.pairs
    borrowed = gpu.lent(second)
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as other:

        def borrows() -> Streams:
            with gpu.streams() as streams:
                return streams

        with gpu.streams() as taken:
            assert taken is second
            waiting = loader.submit(borrowed.__enter__)
            while not gpu._wanted:
                pass
            assert other.submit(borrows).result(timeout=10) is first
            assert not waiting.done()
        waiting.result(timeout=10)
        assert borrows() is first
        borrowed.__exit__(None, None, None)
        assert borrows() is second


def test_what_only_the_last_layer_gives_is_one_graph_of_all(
    spec: ModelSpec, gpu: Gpu, cuda: FakeCuda
) -> None:
    stack, chosen = stack_of(spec), {"outputs": ("hidden", "pooled"), "layers": (3,)}
    batches = [batch_of(spec, lengths, **chosen) for lengths in ((5, 1, 40), (64,), (3,) * 30)]
    expected = [run(stack, gpu, batch) for batch in batches]
    stack.record(gpu, card_of(spec, max_tokens=200))
    replayed(cuda)
    for batch, other in zip(batches, expected, strict=True):
        assert_same(run(stack, gpu, batch), other)
        assert replayed(cuda) == 1


def test_a_kernel_that_does_not_compile_leaves_a_model_without_graphs(
    gpu: Gpu, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    """What Triton says of it is no RuntimeError."""
    cuda.refuses = refusing(0, ValueError("out of resource: shared memory"))
    stack = stack_of(ENCODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    assert "is served without CUDA graphs: out of resource" in caplog.text
    assert stack.graphs is None


def test_another_allocator_of_memory_has_no_pools_for_graphs(
    gpu: Gpu, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "get_allocator_backend", lambda: "cudaMallocAsync")
    stack = stack_of(ENCODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    assert stack.graphs is None


def test_what_graphs_hold_does_not_count_as_free_as_long_as_they_live(
    gpu: Gpu, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved = iter([100, 900, 900])
    monkeypatch.setattr(cuda, "memory_reserved", lambda _: next(reserved))
    before = kept_bytes()
    stack = stack_of(ENCODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    assert kept_bytes() == gpu.memory()["graphs"] == before + 800
    stack.graphs = None
    assert kept_bytes() == before


# ---- torch 2.11, where all graphs of a device have one generator of random numbers


class OneGenerator:
    def __init__(self) -> None:
        self.recorded = False
        self.invalid: list[FakeGraph] = []
        self.abandoned: list[object] = []


@pytest.fixture
def generator() -> OneGenerator:
    return OneGenerator()


@pytest.fixture
def old(generator: OneGenerator, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    class OldGraph(FakeGraph):
        def capture_begin(self, **given: Any) -> None:
            generator.recorded = True
            super().capture_begin(**given)

        def capture_end(self) -> None:
            super().capture_end()
            if self in generator.invalid:  # of which neither pool nor generator hears
                raise RuntimeError("operation failed due to a previous error during capture")
            generator.recorded = False

        def replay(self) -> None:
            if generator.recorded:
                raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
            super().replay()

    monkeypatch.setattr(making, "end_graph_pool", lambda _, pool: generator.abandoned.append(pool))
    return FakeCuda(OldGraph)


def test_a_batch_is_replayed_while_another_model_is_recorded(old: FakeCuda) -> None:
    gpu = Gpu(CPU, slots=2, cuda=old)
    stack, other = stack_of(ENCODER), stack_of(DECODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    assert stack.graphs is not None
    made = next(iter(stack.graphs.known[gpu.pairs[1].batch.cuda_stream].values()))
    beside: list[Future[None]] = []
    with ThreadPoolExecutor(1) as thread:

        def replays_beside(_: int) -> None:
            if not beside:
                beside.append(thread.submit(torch.inference_mode()(made.layers[0].graph.replay)))

        old.refuses = replays_beside
        other.record(gpu, card_of(DECODER, max_tokens=200))
        beside[0].result(timeout=10)


@pytest.mark.parametrize("says", ["while it runs", "at its end"])
def test_a_recording_that_cannot_be_ended_leaves_other_models_graphs_as_they_were(
    old: FakeCuda, generator: OneGenerator, says: str
) -> None:
    gpu = Gpu(CPU, slots=2, cuda=old)
    stack, other = stack_of(ENCODER), stack_of(DECODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    batch = batch_of(ENCODER, (9,), **ALL)
    expected = run(stack, gpu, batch)

    def invalidates(number: int) -> None:
        generator.invalid.append(old.graphs[number])
        if says == "while it runs":
            raise RuntimeError("operation not permitted when stream is capturing")

    old.refuses = invalidates
    other.record(gpu, card_of(DECODER, max_tokens=200))
    assert other.graphs is None
    assert len(generator.abandoned) == 1
    assert_same(run(stack, gpu, batch), expected)


def test_where_that_cannot_be_undone_no_graph_is_used_any_more(
    old: FakeCuda, generator: OneGenerator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graphs, "_broken", [])
    gpu = Gpu(CPU, slots=2, cuda=old)
    stack, other = stack_of(ENCODER), stack_of(DECODER)
    stack.record(gpu, card_of(ENCODER, max_tokens=200))
    batch = batch_of(ENCODER, (9,), **ALL)
    expected = run(stack, gpu, batch)
    replayed(old)

    def made() -> FakeGraph:
        graph = FakeCuda.CUDAGraph(old)
        generator.invalid.append(graph)
        return graph

    monkeypatch.setattr(old, "CUDAGraph", made)
    old.refuses = refusing(0, RuntimeError("operation not permitted when stream is capturing"))
    other.record(gpu, card_of(DECODER, max_tokens=200))
    assert "no CUDA graph is used any more until the next start" in caplog.text
    assert_same(run(stack, gpu, batch), expected)
    assert replayed(old) == 0


# ---- shapes


@given(
    st.lists(st.integers(1, 9000), min_size=1, max_size=300),
    st.one_of(st.none(), st.integers(1, 20000)),
)
def test_a_batch_fits_a_shape_in_all_its_sizes_or_none(lengths: list[int], longest: int | None) -> None:
    known = [shape for alike in shapes(longest) for shape in alike]
    shape = fitting(known, lengths)
    fits = [one for one in known if one.fits(sum(lengths), len(lengths), max(lengths))]
    assert (shape is None) == (not fits)
    if shape is not None:
        assert sum(lengths) <= shape.tokens
        assert len(lengths) <= shape.sequences
        assert max(lengths) <= shape.longest
        assert shape.tokens == min(one.tokens for one in fits)


def test_shapes_launch_no_more_tiles_than_a_batch_could_have_and_their_own_sequences_fill_them() -> None:
    for longest in (None, 64, 200, 512, 8192):
        for shape in (one for alike in shapes(longest) for one in alike):
            assert sum(shape.lengths) == shape.tokens
            assert len(shape.lengths) <= shape.sequences
            assert shape.sequences * shape.longest <= max(PLACES, shape.tokens * shape.longest)
            assert shape.sequences * max(shape.longest, 128) <= 2 * PLACES
    assert {len(alike) for alike in shapes(64)} == {1}
    assert TOKENS[0] <= 64


def test_a_frame_says_where_sequences_stand_and_that_there_are_no_others() -> None:
    frame = Frame(GraphShape(64, 8, 64), (), width=4, dtype=torch.float32, device=CPU)
    frame.lay_out((9, 20, 1))
    frame.lay_out((5, 2))
    assert frame.batch.cu_seqlens.tolist() == [0, 5, 7, 7, 7, 7, 7, 7, 7]
    assert frame.table.rows[:, :4].tolist() == [[0, 5, 0, 5], [5, 2, 5, 2], *[[0] * 4] * 6]
    assert not frame.table.rows[:, 4:].any()
    assert frame.table.positions[:7].tolist() == [0, 1, 2, 3, 4, 0, 1]
