"""Graphs of a stack's blocks are recorded when it is loaded: for each slot, a shape at a time.

Each is tried against the launches that it was recorded of, and timed against the host that makes them: graphs
are made for as many tokens as the device computes in less time than the host launches.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.attention.torch_private import end_graph_pool
from models.device.gpu import Gpu, Streams
from models.device.graphs import Recorder, keep_account, lent
from models.encoder.graphs.blocks import WholeBlocks
from models.encoder.graphs.frame import Frame
from models.encoder.graphs.replays import BlockGraph, BlockGraphs, ShapeGraphs
from models.encoder.graphs.shapes import GraphShape, shapes
from models.errors import DeviceFailed, OutOfMemory, of_batch
from models.protocol import ModelCard

log = logging.getLogger(__name__)

# Replays are the same launches on the same numbers; where a kernel adds up in any order, a rounding apart.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

Known = dict[GraphShape, ShapeGraphs]


def graphs_of(blocks: WholeBlocks, gpu: Gpu, card: ModelCard) -> BlockGraphs | None:
    """Return graphs of the blocks of a model, made in every slot; None where there are none to be made.

    Raises what a device says that has failed.
    """
    if gpu.cuda.get_allocator_backend() != "native":
        log.info("model %s: CUDA graphs need torch's own allocator of memory", card.name)
        return None
    known: dict[int, Known] = {}
    before = gpu.memory()["reserved"]
    for streams in gpu.pairs:
        made = _of_slot(blocks, gpu, streams, card)
        if not made:
            return None
        known[streams.batch.cuda_stream] = made
    found, held = BlockGraphs(gpu.current, known), gpu.memory()["reserved"] - before
    keep_account(found, held)
    most = max(max(shape.tokens for shape in made) for made in known.values())
    count = sum(len(one.layers) + (one.whole is not None) for made in known.values() for one in made.values())
    log.info(
        "model %s: batches of up to %d tokens are %d CUDA graphs, with %d MiB of memory of their own",
        card.name,
        most,
        count,
        held >> 20,
    )
    return found


def _of_slot(blocks: WholeBlocks, gpu: Gpu, streams: Streams, card: ModelCard) -> Known:
    """Return those of one slot; batches may run in it between two shapes."""
    recorder = Recorder(streams.batch, gpu.cuda, partial(end_graph_pool, gpu.device))
    made = Known()
    for alike in shapes(card.max_tokens):
        for shape in alike:
            try:
                with gpu.lent(streams), gpu.entered(streams.batch), torch.inference_mode():
                    one, gained = _of_shape(blocks, recorder, shape, gpu, card.d_model)
            except Exception as error:  # also what Triton says of a kernel
                meaning = of_batch(error) if isinstance(error, RuntimeError) else None
                if isinstance(meaning, DeviceFailed) and not gpu.lives():
                    raise
                if not isinstance(meaning, OutOfMemory):
                    log.warning("model %s is served without CUDA graphs: %s", card.name, str(error)[:200])
                    return {}
                log.info("model %s: no memory for CUDA graphs of %d tokens", card.name, shape.tokens)
                return made
            if one is None or not gained:  # nor for more tokens
                return made
            made[shape] = one
    return made


def _of_shape(
    blocks: WholeBlocks, recorder: Recorder, shape: GraphShape, gpu: Gpu, width: int
) -> tuple[ShapeGraphs | None, bool]:
    """Return the graphs of a shape, and whether the device is quicker than the host that would launch it.

    None where no layer is one. Raises RuntimeError where they do not give what they were recorded of.
    """
    heads = blocks.heads
    layers = [at for at in range(len(blocks.blocks)) if blocks.are_launches(at, shape.longest)]
    if not layers:
        return None, False
    frame = Frame(shape, blocks.rotaries, width=width, dtype=heads.dtype, device=heads.device)
    frame.lay_out(shape.lengths)
    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(frame.rows.shape, generator=chance).to(heads.device, heads.dtype)
    frame.rows.copy_(rows)
    _launched(blocks, layers, frame)  # what is used for the first time is loaded
    recorder.stream.synchronize()
    began = time.perf_counter()
    expected = _launched(blocks, layers, frame)
    launching = time.perf_counter() - began
    made = ShapeGraphs(frame, _recorded(blocks, layers, frame, recorder))
    if len(layers) == len(blocks.blocks):
        graph, leaves = recorder.record(partial(_launched, blocks, layers, frame))
        made = replace(made, whole=BlockGraph(graph, lent(frame.rows), lent(leaves)))
        del leaves
    _compare(_replayed(made), expected, shape)
    timed = replace(made, layers={0: made.whole}) if made.whole else made
    _compare(_replayed(timed), expected, shape)  # with the first launch a graph is brought to the device
    begin, end = (gpu.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(recorder.stream)
    _replayed(timed)
    end.record(recorder.stream)
    recorder.stream.synchronize()
    return made, begin.elapsed_time(end) < 1e3 * launching


def _launched(blocks: WholeBlocks, layers: Sequence[int], frame: Frame) -> Tensor:
    x = frame.rows
    for layer in layers:
        x = blocks.run(layer, x, frame)
    return x


def _recorded(
    blocks: WholeBlocks, layers: Sequence[int], frame: Frame, recorder: Recorder
) -> dict[int, BlockGraph]:
    """Return a graph a layer; each reads what the one before it wrote.

    What a layer wrote is held until the next one has been recorded, which reads it, and no longer: the memory
    of all layers is that of two.
    """
    made: dict[int, BlockGraph] = {}
    enters = frame.rows
    for layer in layers:
        graph, leaves = recorder.record(partial(blocks.run, layer, enters, frame))
        made[layer] = BlockGraph(graph, lent(enters), lent(leaves))
        enters = leaves
    return made


def _replayed(made: ShapeGraphs) -> Tensor:
    x = made.frame.rows
    for one in made.layers.values():
        if one.enters.data_ptr() != x.data_ptr():
            one.enters.copy_(x)
        one.graph.replay()
        x = one.leaves
    return x


def _compare(found: Tensor, expected: Tensor, shape: GraphShape) -> None:
    tolerance: Any = TOLERANCES[found.dtype]
    scale = expected.abs().amax().nan_to_num(1.0).clamp(min=1e-30)
    if not torch.allclose(found / scale, expected / scale, rtol=0.0, atol=tolerance, equal_nan=True):
        raise RuntimeError(f"graphs of {shape.tokens} tokens do not give what they were recorded of")
