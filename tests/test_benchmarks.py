"""Benchmarks are run by hand, so that nothing else would say that one no longer fits what it measures."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.encoders import Encoder, verdicts
from benchmarks.precision import order_kept

ROOT = Path(__file__).parent.parent
SERVERS = ROOT / "benchmarks/peers/servers"  # run in environments of their own
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "benchmarks").rglob("*.py")
    if SERVERS not in file.parents
)


@pytest.mark.parametrize("name", MODULES)
def test_benchmark_can_be_imported(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__


def test_order_is_kept_by_the_same_vectors_and_not_by_others() -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    same = order_kept(vectors * 3, vectors)  # of whatever length
    assert same["tau_least"] == pytest.approx(1)
    assert (same["nearest_least"], same["first_alike"]) == (1, 1)
    other = order_kept(vectors[::-1], vectors)
    assert abs(other["tau_mean"]) < 0.2
    assert other["nearest_mean"] < 0.5


def test_a_promise_is_kept_only_where_the_figures_keep_it() -> None:
    def encoder(who: str, dtype: str, rate: float, error: float = 0.0, size: int | None = None) -> Encoder:
        return Encoder(who, dtype, lambda _: rate, np.zeros(0), 0, "", size, [rate], error)

    found = [
        encoder("heed", "float32", 100, size=100),
        encoder("heed", "bfloat16", 180, error=1e-3, size=51),
        encoder("openvino", "bfloat16", 185),
    ]
    kept = {name: met for name, _, _, met in verdicts(found, 0)}
    assert kept == {
        "bfloat16 : heed float32": True,
        "bfloat16 : openvino bfloat16": True,
        "bfloat16, error": True,
        "bfloat16, weights": False,
    }
    assert {name: met for name, _, _, met in verdicts(found, 1)}["bfloat16 : openvino bfloat16"] is False
