"""Benchmarks are run by hand, so that nothing else would say that one no longer fits what it measures."""

import importlib
from pathlib import Path

import pytest

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
