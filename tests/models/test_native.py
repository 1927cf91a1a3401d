"""The compiled products and attention against float64, at every edge of their blocks and vectors."""

import importlib.util
import logging
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec

import pytest
import torch

from models.compiled import native as module
from models.compiled import structures
from models.compiled.extents import Extent
from models.compiled.native import Native, native
from models.compiled.panels import Projections
from models.compiled.weights import Panels
from tests.compiled import random

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

ROWS = (1, 2, 5, 6, 7, 13, 14, 15, 29, 126, 127, 252, 253, 300)
SIZES = (
    (1, 1),
    (7, 3),
    (16, 384),
    (31, 385),
    (33, 100),
    (64, 768),
    (65, 769),
    (96, 1000),
    (20, 2048),
)  # out, in
LENGTHS = (1, 2, 8, 15, 16, 17, 31, 33, 68, 130)
RULE = {"scale": 1.0, "causal": False}


def slowly(q, k, v, extent: Extent, *, scale: float, causal: bool):
    """z [T, H, D], weights [H, T, T] and logsumexp [H, T] of one sequence, in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (one[extent.rows].double().transpose(0, 1) for one in (q, k, v))
    scores = scale * q @ k.repeat_interleave(group, 0).mT
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    weights = scores.softmax(-1)
    return (weights @ v.repeat_interleave(group, 0)).transpose(0, 1), weights, scores.logsumexp(-1)


def extents_of(lengths: tuple[int, ...], **read: bool) -> list[Extent]:
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    return [Extent(slice(at, at + length), **read) for at, length in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize(("out", "inner"), SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_products_are_right_at_every_edge(ours: Native, out: int, inner: int, biased: bool) -> None:
    weight, bias = random(out, inner, seed=1), random(out, seed=2) if biased else None
    panels = ours.lay_out(weight, bias)
    for rows in ROWS:
        x = random(rows, inner, seed=rows)
        expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double() if biased else None)
        found = ours.linear(x, panels)
        assert found.shape == expected.shape
        bound = 2e-7 * math.sqrt(inner) * (x.abs().double() @ weight.abs().double().T + 1)
        assert ((found.double() - expected).abs() <= bound).all()


def test_no_rows_are_no_rows(ours: Native) -> None:
    assert ours.linear(random(0, 8), ours.lay_out(random(5, 8), None)).shape == (0, 5)


def test_rows_apart_in_memory(ours: Native) -> None:
    weight, x = random(40, 24), random(9, 48)[:, ::2]
    assert torch.equal(
        ours.linear(x, ours.lay_out(weight, None)), ours.linear(x.clone(), ours.lay_out(weight, None))
    )


def test_a_row_has_the_same_bits_whatever_it_is_computed_beside(ours: Native, threads) -> None:
    panels, x = ours.lay_out(random(96, 800), random(96)), random(300, 800)
    threads(1)
    expected = ours.linear(x, panels)
    for count in (1, 2, 3):
        threads(count)
        for rows in ROWS:
            assert torch.equal(ours.linear(x[:rows], panels), expected[:rows])
            assert torch.equal(ours.linear(x[300 - rows :], panels), expected[300 - rows :])


@pytest.mark.parametrize("width", [1, 4, 8, 31, 64, 80])
@pytest.mark.parametrize(("heads", "key_heads"), [(3, 3), (4, 2), (4, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_right_at_every_edge(
    ours: Native, width: int, heads: int, key_heads: int, causal: bool
) -> None:
    rows = sum(LENGTHS)
    q, k, v = random(rows, heads + 2 * key_heads, width).split([heads, key_heads, key_heads], dim=1)
    extents = extents_of(LENGTHS, lse=True, weights=True)
    scale = 1 / math.sqrt(width)
    found = ours.attend(q, k, v, extents, scale=scale, causal=causal)
    assert found.finite
    for extent, made, made_lse in zip(extents, found.weights, found.lse, strict=True):
        z, weights, lse = slowly(q, k, v, extent, scale=scale, causal=causal)
        torch.testing.assert_close(found.z[extent.rows].double(), z, rtol=1e-5, atol=2e-6)
        assert made is not None
        assert made_lse is not None
        torch.testing.assert_close(made.double(), weights, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(made_lse.double(), lse, rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(made.sum(-1), torch.ones(heads, extent.length), rtol=0, atol=5e-7)
        if causal:
            assert not made.triu(1).any()


@pytest.mark.parametrize("output", [True, False])
def test_a_whole_block_is_its_three_steps_to_the_bit(ours: Native, output: bool, threads) -> None:
    heads, key_heads, width, lengths = 4, 2, 24, (5, 40, 1, 17)
    x = random(sum(lengths), 56)
    projection = ours.lay_out(random((heads + 2 * key_heads) * width, 56, seed=1) / 7, random(192, seed=2))
    last = ours.lay_out(random(56, heads * width, seed=3) / 9, None) if output else None
    extents = extents_of(lengths, lse=True, weights=True)[1:3]  # z of two of the four sequences
    rule = {"scale": 0.2, "causal": True}
    projected = ours.linear(x, projection)
    q, k, v = projected.view(-1, heads + 2 * key_heads, width).split([heads, key_heads, key_heads], dim=1)
    attended = ours.attend(q, k, v, extents, **rule)
    expected = attended.z.flatten(1) if last is None else ours.linear(attended.z.flatten(1), last)
    for count in (1, 2, 3):
        threads(count)
        by = Projections(qkv=projection, output=last, heads=heads, key_heads=key_heads)
        found = ours.block(x, extents, by, **rule)
        assert torch.equal(found.z, expected)
        assert found.projected is not None
        assert torch.equal(found.projected, projected)
        assert found.finite
        assert all(map(torch.equal, found.lse, attended.lse))
        assert all(map(torch.equal, found.weights, attended.weights))


def test_rows_of_whole_pages_are_read_as_any_others(ours: Native) -> None:
    heads, width, rows = 16, 64, 40
    x, extents = random(rows, 1024), extents_of((9, 31), weights=True)
    weight, bias = random(3072, 1024, seed=1) / 32, random(3072, seed=2)
    last = random(1024, 1024, seed=3) / 32
    by = Projections(
        qkv=ours.lay_out(weight, bias), output=ours.lay_out(last, None), heads=heads, key_heads=heads
    )
    found = ours.block(x, extents, by, scale=0.125, causal=False)
    projected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert found.projected is not None
    torch.testing.assert_close(found.projected.double(), projected, rtol=1e-5, atol=1e-5)
    q, k, v = projected.view(rows, 3 * heads, width).split(heads, dim=1)
    slow = [slowly(q, k, v, extent, scale=0.125, causal=False) for extent in extents]
    z = torch.cat([one[0] for one in slow]).flatten(1) @ last.double().T
    torch.testing.assert_close(found.z.double(), z, rtol=1e-4, atol=1e-5)
    assert found.finite
    for made, (_, weights, _) in zip(found.weights, slow, strict=True):
        assert made is not None
        torch.testing.assert_close(made.double(), weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 20, 40])
def test_what_is_not_finite_is_told(ours: Native, bad: float, which: int, place: int) -> None:
    three = [random(41, 2, 9, seed=seed) for seed in range(3)]
    three[which][place, 1, 8] = bad
    found = ours.attend(*three, extents_of((41,)), scale=0.3, causal=False)
    assert found.finite == bool(found.z.isfinite().all())
    if which != 1 or math.isnan(bad):
        assert not found.finite


def test_of_a_product_too(ours: Native) -> None:
    x = random(3, 8)
    x[1, 2] = math.inf
    extents = extents_of((3,))
    panels = ours.lay_out(random(24, 8), None)
    last = ours.lay_out(torch.zeros(5, 8), None)
    short, whole = (Projections(qkv=panels, output=one, heads=1, key_heads=1) for one in (None, last))
    assert not ours.block(x, extents, short, **RULE).finite
    assert not ours.block(x, extents, whole, **RULE).finite
    assert ours.block(x[:1], extents_of((1,)), whole, **RULE).finite


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, -50.0, 0.0, 1e4, 3e6, 1e9])
def test_scores_of_every_size(ours: Native, scale: float) -> None:
    q, k, v = (random(37, 2, 16, seed=seed) for seed in range(3))
    extents = extents_of((37,), lse=True, weights=True)
    found = ours.attend(q, k, v, extents, scale=scale, causal=False)
    z, weights, lse = slowly(q, k, v, extents[0], scale=scale, causal=False)
    (made_lse,), (made,) = found.lse, found.weights
    assert made is not None
    assert made_lse is not None
    assert found.finite
    torch.testing.assert_close(made_lse.double(), lse, rtol=1e-6, atol=2e-5)
    if abs(scale) <= 50:  # beyond, scores that differ by a rounding are told apart by nobody
        torch.testing.assert_close(made.double(), weights, rtol=2e-4, atol=1e-6)
        torch.testing.assert_close(found.z.double(), z, rtol=2e-4, atol=1e-5)
    assert (made >= 0).all()
    assert (made.sum(-1) - 1).abs().max() < 1e-6


def test_a_scale_beyond_float32_gives_nothing_finite(ours: Native) -> None:
    q, k, v = (random(5, 1, 4, seed=seed) for seed in range(3))
    assert not ours.attend(q, k, v, extents_of((5,)), scale=1e39, causal=False).finite


@pytest.mark.parametrize(
    "x", [torch.randn(3, 7), torch.randn(3, 8).double(), torch.randn(8), torch.randn(2, 3, 8)]
)
def test_rows_that_do_not_fit_never_reach_c(ours: Native, x: torch.Tensor) -> None:
    panels = ours.lay_out(random(24, 8), None)
    with pytest.raises(ValueError, match=r"rows are float32 \[N, 8\]"):
        ours.linear(x, panels)
    with pytest.raises(ValueError, match=r"rows are float32 \[N, 8\]"):
        ours.block(x, extents_of((3,)), Projections(qkv=panels, output=None, heads=1, key_heads=1), **RULE)


@pytest.mark.parametrize("rows", [slice(-1, 2), slice(0, 4), slice(2, 1)])
def test_sequences_out_of_the_rows_never_reach_c(ours: Native, rows: slice) -> None:
    q, panels = random(3, 1, 8), ours.lay_out(random(24, 8), None)
    with pytest.raises(ValueError, match="among 3 rows"):
        ours.attend(q, q, q, [Extent(rows)], **RULE)
    by = Projections(qkv=panels, output=None, heads=1, key_heads=1)
    with pytest.raises(ValueError, match="among 3 rows"):
        ours.block(random(3, 8), [Extent(rows)], by, **RULE)


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((3, 2, 8), (3, 2, 7), (3, 2, 7)),
        ((3, 2, 8), (3, 2, 8), (2, 2, 7)),
        ((3, 2, 8), (3, 2, 8), (3, 1, 8)),
        ((3, 2, 8), (3, 0, 8), (3, 0, 8)),
        ((3, 3, 8), (3, 2, 8), (3, 2, 8)),
        ((3, 8), (3, 2, 8), (3, 2, 8)),
    ],
    ids=["widths", "values", "value heads", "no heads", "heads", "axes"],
)
def test_heads_that_do_not_fit_never_reach_c(ours: Native, q, k, v) -> None:
    with pytest.raises(ValueError, match="q, k and v"):
        ours.attend(random(*q), random(*k), random(*v), extents_of((2,)), **RULE)


def test_numbers_of_other_kinds_never_reach_c(ours: Native) -> None:
    q = random(3, 2, 8)
    for three in ((q.half(), q, q), (q, q.double(), q), (q, q, q.to("meta"))):
        with pytest.raises(ValueError, match="float32, on a processor"):
            ours.attend(*three, extents_of((3,)), **RULE)


def test_layers_that_do_not_fit_never_reach_c(ours: Native) -> None:
    projection = ours.lay_out(random(24, 8), None)
    with pytest.raises(ValueError, match="no q, k and v of 5 heads"):
        Projections(qkv=projection, output=None, heads=5, key_heads=1)
    wide = ours.lay_out(random(8, 9), None)
    with pytest.raises(ValueError, match="W_O reads 9 numbers"):
        Projections(qkv=projection, output=wide, heads=1, key_heads=1)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (random(5, 3).double(), None),
        (random(5, 3), random(4)),
        (random(5, 3), random(5).half()),
        (random(5), None),
    ],
)
def test_parameters_that_do_not_fit_are_not_laid_out(
    ours: Native, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    with pytest.raises(ValueError, match=r"panels are|has a bias of"):
        ours.lay_out(weight, bias)


def test_panels_for_other_vectors_never_reach_c(ours: Native) -> None:
    made = ours.lay_out(random(24, 8), None)
    other = Panels(made.weight, None, made.inner, made.out, made.columns // 2, made.linear)
    with pytest.raises(ValueError, match="columns on this processor"):
        ours.linear(random(3, 8), other)


def test_guards_hold_where_python_drops_asserts() -> None:
    script = """
import torch
from models.compiled.extents import Extent
from models.compiled.native import native
from models.compiled.panels import Feed, Projections
assert False, "asserts are dropped here"
ours, x, q = native(), torch.randn(3, 8), torch.randn(3, 1, 8)
panels, rule = ours.lay_out(torch.randn(24, 8), None), {"scale": 1.0, "causal": False}
same = ours.lay_out(torch.randn(8, 8), None)
network = Feed(up=same, gate=None, down=same, activation="gelu")
beyond = [Extent(slice(0, 300))]
for wrong in (
    lambda: ours.linear(x.double(), panels),
    lambda: ours.linear(x[:, :7], panels),
    lambda: ours.attend(q, q, q.half(), beyond, **rule),
    lambda: ours.attend(q, q, q, beyond, **rule),
    lambda: ours.block(x, beyond, Projections(qkv=panels, output=None, heads=1, key_heads=1), **rule),
    lambda: ours.feed(network, x, x, x[:2]),
    lambda: Feed(up=same, gate=None, down=panels, activation="gelu"),
    lambda: ours.lay_out(torch.randn(8, 8), torch.randn(7)),
):
    try:
        wrong()
    except ValueError as error:
        print(error)
    else:
        raise SystemExit("reached C")
"""
    subprocess.run([sys.executable, "-O", "-W", "ignore", "-c", script], check=True, timeout=120)


def test_callers_side_by_side_get_what_they_get_alone(ours: Native, threads) -> None:
    threads(3)
    x = [random(rows, 200, seed=rows) for rows in (3, 50, 301, 17)] * 40
    panels = ours.lay_out(random(300, 200), None)
    expected = [ours.linear(one, panels) for one in x]

    def run(one: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(3)  # each thread has its own
        return ours.linear(one, panels)

    with ThreadPoolExecutor(5) as pool:
        assert all(map(torch.equal, pool.map(run, x), expected))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a nice value is the process's")
def test_helpers_are_no_more_urgent_than_who_they_help() -> None:
    script = """
import os, threading, torch
from models.compiled.native import native
started = os.getpriority(os.PRIO_PROCESS, 0)
torch.set_num_threads(3)
ours, x = native(), torch.randn(3000, 400)
panels = ours.lay_out(torch.randn(400, 400), None)
before = set(os.listdir("/proc/self/task"))
ours.linear(x, panels)
helpers = [int(one) for one in set(os.listdir("/proc/self/task")) - before]
def slot():
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
    torch.set_num_threads(3)
    for _ in range(30):
        ours.linear(x, panels)
thread = threading.Thread(target=slot)
thread.start()
thread.join()
assert len(helpers) == 2, helpers
# Whoever runs this may be nicer already, and nobody becomes less so.
assert [os.getpriority(os.PRIO_PROCESS, one) for one in helpers] == [max(5, started)] * 2
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


def test_a_child_of_fork_goes_on_with_helpers_of_its_own() -> None:
    script = """
import os, torch
from models.compiled.native import native
torch.set_num_threads(3)
ours, x = native(), torch.randn(300, 200)
panels = ours.lay_out(torch.randn(300, 200), None)
expected = ours.linear(x, panels).numpy()
child = os.fork()
if child == 0:  # where torch's own threads are no more: numpy compares
    alone = len(os.listdir("/proc/self/task"))
    right = all((ours.linear(x, panels).numpy() == expected).all() for _ in range(50))
    os._exit(0 if right and len(os.listdir("/proc/self/task")) > alone else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


@pytest.mark.parametrize(
    "spec",
    [None, ModuleSpec("models.compiled._native", None, origin="/nowhere/_native.so")],
    ids=["absent", "broken"],
)
def test_without_a_library_it_is_said(
    spec: ModuleSpec | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with caplog.at_level(logging.WARNING):
        assert module.load_native.__wrapped__() is None
    assert "C compiler" in caplog.text


def test_a_library_built_for_other_structures_is_not_called(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(structures.NUMBERS, "LAYER_NORM", 9)
    assert module.load_native.__wrapped__() is None
    assert "other structures: number.LAYER_NORM" in caplog.text
