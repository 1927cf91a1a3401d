"""The folder for a machine with a GPU and no network: what is in it, and that it runs through without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_BYTES = 64 << 20
WHEELS_BYTES = 17_100_000  # what those of wheels.txt came to


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "heed"
    made = subprocess.run(
        [sys.executable, "deploy/gpu/bundle.py", folder, "--without-wheels"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def test_it_has_what_is_run_and_fits(bundle: Path) -> None:
    for name in (
        "gpu/run.sh",
        "gpu/serve.py",
        "models/compiled/_native.so",
        "service/wire/compiled/_native.so",
    ):
        assert (bundle / name).is_file()
    assert list((bundle / "tests" / "gpu").glob("test_*.py"))
    size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert size + WHEELS_BYTES <= MOST_BYTES
    assert os.access(bundle / "gpu" / "run.sh", os.X_OK)


def test_sections_have_limits_that_come_to_seven_minutes(bundle: Path) -> None:
    words = [line.split() for line in (bundle / "gpu" / "run.sh").read_text().splitlines()]
    limits = {line[1]: int(line[2]) for line in reversed(words) if line[:1] == ["section"]}
    assert {"machine", "look", "tests", "layer", "models", "server-1", "server-8"} <= set(limits)
    assert sum(limits.values()) <= 7 * 60


@pytest.mark.timeout(600)
def test_it_runs_through_on_a_machine_without_a_gpu(bundle: Path, tmp_path: Path) -> None:
    own = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [bundle / "gpu" / "run.sh", "--dry", tmp_path],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=560,
    )
    ended = [json.loads(line) for line in (tmp_path / "sections.jsonl").read_text().splitlines()]
    assert {one["section"]: one["status"] for one in ended} == dict.fromkeys(
        ("machine", "packages", "look", "tests", "layer", "models", "server-1", "server-8"), 0
    ), run.stdout[-4000:]
    assert (tmp_path / "gpu-look.json").is_file()
    assert "skipped" in (tmp_path / "tests.txt").read_text()
    assert "requests/s" in (tmp_path / "server-8.txt").read_text()
