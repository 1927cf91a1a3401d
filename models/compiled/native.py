"""Products, attention of short sequences and feed-forward networks by compiled code: float32 on a processor.

One call for a block's attention, one for what follows it (`native_attention.c`, `native_feed.c`), both
outside the interpreter's lock. It makes no code for a number of rows, as oneDNN does, so nothing grows; a
row's bits depend neither on the rows beside it nor on the number of threads. Where the extension could not
be built, or the processor has neither AVX-512 nor AVX2, torch does the work.
"""

import ctypes
import importlib.util
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.compiled.extents import AttentionResult, Extent
from models.compiled.panels import Feed, Panels

__all__ = ["ACTIVATIONS", "Native", "native"]

log = logging.getLogger(__name__)

INTERFACE = 2  # as in native_attention.c: what was built for other structures is not called
LARGEST_SCALE = torch.finfo(torch.float32).max
PAGE, BESIDE, FEW_ROWS = 1024, 16, 8  # numbers: 4 KiB, a cache line
COLUMNS = (0, 16, 32)  # of a panel, by what the processor has

JOB = Struct("@8P 2P2q 2P2q 6q 9q q f3i")
EXTENT = Struct("@3q 2P")
FEED = Struct("@6P 2P2q 2P2q 2P2q 2Pfi 2Pfi 4q3i4x")
NO_LINEAR = (0, 0, 0, 0)
NO_NORM = (0, 0, 0.0, 0)
LAYER_NORM, ROOT_MEAN_SQUARE_NORM = 1, 2
ACTIVATIONS = {
    name: number
    for number, name in enumerate(
        ("identity", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "relu", "relu2")
    )
}


class Norm(Protocol):
    """What compiled code reads of a norm; `rms` that it is root-mean-square, else layer norm."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool


class Native:
    """The C functions of one shared library; `instructions`: 2 AVX-512, 1 AVX2, no more than there are."""

    def __init__(self, library: ctypes.CDLL, instructions: int) -> None:
        self._run = library.heed_run
        self._run.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._feed = library.heed_feed
        self._feed.argtypes = [ctypes.c_char_p]
        self._feed.restype = None
        self._spare_floats = library.heed_spare_floats
        self._spare_floats.restype = ctypes.c_int64
        self._spare_floats.argtypes = [ctypes.c_int64, ctypes.c_int64]
        self._instructions = instructions
        self._columns = COLUMNS[instructions]

    def lay_out(self, weight: Tensor, bias: Tensor | None) -> Panels:
        """Return a weight [out, in] and a bias [out] as `linear` and `block` take them."""
        out, inner = weight.shape
        missing = -out % self._columns
        padded = F.pad(weight, (0, 0, 0, missing)) if missing else weight
        panels = padded.view(-1, self._columns, inner).transpose(1, 2).contiguous()
        return Panels.of(panels, None if bias is None else F.pad(bias, (0, missing)), out)

    def linear(self, x_ND: Tensor, panels: Panels) -> Tensor:
        """Return x·Wᵀ + b [N, out] of x [N, in]."""
        x_ND = _padded(_rows_of(x_ND, panels))
        rows = x_ND.shape[0]
        y = x_ND.new_empty(rows, panels.out)
        job = JOB.pack(
            *(x_ND.data_ptr(), y.data_ptr(), *(0,) * 6),
            *panels.pointers,
            *NO_LINEAR,
            *(rows, *(0,) * 5),
            *(x_ND.stride(0), panels.out, *(0,) * 7),
            *(0, 0.0, False, self._instructions, torch.get_num_threads()),
        )
        self._run(job, None)
        return y

    def attend(
        self,
        q_NHD: Tensor,
        k_NGD: Tensor,
        v_NGD: Tensor,
        extents: Sequence[Extent],
        *,
        scale: float,
        causal: bool,
    ) -> AttentionResult:
        """Return softmax(scale·QKᵀ)·V of each sequence's rows, z [N', H, D]."""
        three = [one if one.stride(2) == 1 else one.contiguous() for one in (q_NHD, k_NGD, v_NGD)]
        _, heads, width = q_NHD.shape
        laid = _Laid.out(extents, heads, q_NHD)
        threads = torch.get_num_threads()
        floats = self._spare_floats(laid.longest, width)
        found, spare = q_NHD.new_empty(laid.rows, heads, width), q_NHD.new_empty(threads * floats)
        job = JOB.pack(
            *(0, 0, *(one.data_ptr() for one in three), found.data_ptr(), 0, spare.data_ptr()),
            *NO_LINEAR,
            *NO_LINEAR,
            *(0, laid.rows, len(extents), heads, k_NGD.shape[1], width),
            *(0, 0, heads * width),
            *(one.stride(0) for one in three),
            *(one.stride(1) for one in three),
            floats,
            *(_single(scale), causal, self._instructions, threads),
        )
        return AttentionResult(found, laid.lse, laid.weights, bool(self._run(job, laid.table)))

    def block(
        self,
        x_ND: Tensor,
        projection: Panels,
        output: Panels | None,
        extents: Sequence[Extent],
        *,
        heads: int,
        key_heads: int,
        scale: float,
        causal: bool,
    ) -> AttentionResult:
        """Return the attention of x [N, d_model] through W_QKV and, where there is one, W_O: z [N', out].

        `projected` is [N, (H + 2·G)·D].
        """
        x_ND = _padded(_rows_of(x_ND, projection))
        all_rows, across = x_ND.shape[0], projection.out
        width = across // (heads + 2 * key_heads)
        laid = _Laid.out(extents, heads, x_ND)
        threads = torch.get_num_threads()
        floats = self._spare_floats(laid.longest, width)
        projected = _padded_rows(x_ND, all_rows, across)
        if output is None:
            z = found = x_ND.new_empty(laid.rows, heads * width)
        else:
            found, z = _padded_rows(x_ND, laid.rows, heads * width), x_ND.new_empty(laid.rows, output.out)
        spare = x_ND.new_empty(threads * floats)
        q = projected.data_ptr()
        k = q + heads * width * x_ND.itemsize
        v = k + key_heads * width * x_ND.itemsize
        job = JOB.pack(
            *(x_ND.data_ptr(), q, q, k, v, found.data_ptr(), z.data_ptr(), spare.data_ptr()),
            *projection.pointers,
            *(NO_LINEAR if output is None else output.pointers),
            *(all_rows, laid.rows, len(extents), heads, key_heads, width),
            *(x_ND.stride(0), projected.stride(0), found.stride(0)),
            *(projected.stride(0),) * 3,
            *(width, width, width),
            floats,
            *(_single(scale), causal, self._instructions, threads),
        )
        return AttentionResult(z, laid.lse, laid.weights, bool(self._run(job, laid.table)), projected)

    def feed(
        self,
        network: Feed,
        x_ND: Tensor | None,
        z_ND: Tensor,
        y_ND: Tensor,
        first: Norm | None,
        last: Norm | None,
        *,
        post: bool,
    ) -> None:
        """Fill y [N, d_model] with what a block makes of x, if there is, and z: see `finish.Finish`."""
        rows, width = z_ND.shape
        x_ND = None if x_ND is None else _rows_of(x_ND, network.up)
        z_ND = _rows_of(z_ND, network.up)
        assert x_ND is None or x_ND.shape == z_ND.shape
        assert network.down.out == width
        assert _rows_of(y_ND, network.up) is y_ND  # filled where it stands
        assert y_ND.shape == z_ND.shape
        total, hidden = _padded_rows(z_ND, rows, width), _padded_rows(z_ND, rows, network.up.out)
        read = total if post or first is None else _padded_rows(z_ND, rows, width)
        self._feed(
            FEED.pack(
                0 if x_ND is None else x_ND.data_ptr(),
                *(one.data_ptr() for one in (z_ND, total, read, hidden, y_ND)),
                *network.up.pointers,
                *(NO_LINEAR if network.gate is None else network.gate.pointers),
                *network.down.pointers,
                *_norm(first),
                *_norm(last if post else None),
                *(rows, width, total.stride(0), hidden.stride(0)),
                *(ACTIVATIONS[network.activation], self._instructions, torch.get_num_threads()),
            )
        )


def native() -> Native | None:
    """Return the compiled functions, None where there are none for this machine."""
    return load_native()


@lru_cache(maxsize=1)
def load_native() -> Native | None:
    """Load the library, once; None where there is none for this machine."""
    found = importlib.util.find_spec("models.compiled._native")
    try:
        if found is not None and found.origin is not None:
            library = ctypes.CDLL(found.origin)
            if library.heed_interface() == INTERFACE:
                instructions: int = library.heed_instructions()
                return Native(library, instructions) if instructions else None
    except (OSError, AttributeError):  # built for another machine, or no library of ours
        pass
    log.warning("attention goes without compiled code, more slowly; install Heed where there is a C compiler")
    return None


@dataclass(frozen=True, slots=True)
class _Laid:
    """Room for logsumexp and weights of sequences, C's table of them, how many rows they are, the longest."""

    lse: list[Tensor | None]
    weights: list[Tensor | None]
    table: bytes
    rows: int
    longest: int

    @classmethod
    def out(cls, extents: Sequence[Extent], heads: int, like: Tensor) -> "_Laid":
        lengths = [one.rows.stop - one.rows.start for one in extents]
        lse: list[Tensor | None] = []
        weights: list[Tensor | None] = []
        rows, table = 0, []
        for one, length in zip(extents, lengths, strict=True):
            own_lse = like.new_empty(heads, length) if one.lse else None
            own_weights = like.new_empty(heads, length, length) if one.weights else None
            pointers = (0 if made is None else made.data_ptr() for made in (own_lse, own_weights))
            table.append(EXTENT.pack(one.rows.start, rows, length, *pointers))
            lse.append(own_lse)
            weights.append(own_weights)
            rows += length
        return cls(lse, weights, b"".join(table), rows, max(lengths))


def _rows_of(x_ND: Tensor, panels: Panels) -> Tensor:
    """Return what C reads: nothing there checks it."""
    assert (x_ND.dtype, x_ND.device.type) == (torch.float32, "cpu")
    assert x_ND.ndim == 2
    assert x_ND.shape[1] == panels.weight.shape[1]
    return x_ND.contiguous()


def _norm(norm: Norm | None) -> tuple[int, int, float, int]:
    if norm is None:
        return NO_NORM
    kind = ROOT_MEAN_SQUARE_NORM if norm.rms else LAYER_NORM
    return norm.weight.data_ptr(), 0 if norm.bias is None else norm.bias.data_ptr(), norm.eps, kind


def _single(scale: float) -> float:
    """Return a scale that float32 can hold: infinite where it cannot, so that nothing comes out finite."""
    return scale if abs(scale) <= LARGEST_SCALE else math.copysign(math.inf, scale)


def _padded_rows(like: Tensor, rows: int, width: int) -> Tensor:
    """Return rows that a product may read, [rows, width], not written yet; their memory is longer than they.

    A product reads fourteen rows side by side. A multiple of 4 KiB apart, all of them would have to stand in
    the same few lines of the core's nearest cache.
    """
    return like.new_empty(rows, width if width % PAGE else width + BESIDE)[:, :width]


def _padded(x_ND: Tensor) -> Tensor:
    """Return rows that stand as `_padded_rows` would have them."""
    if x_ND.shape[1] % PAGE or x_ND.shape[0] < FEW_ROWS:
        return x_ND
    return _padded_rows(x_ND, *x_ND.shape).copy_(x_ND)
