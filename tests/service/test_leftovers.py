"""What dead servers left is swept and told, what live ones hold is left alone."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.socket.leftovers import MetricsFolder, RunMarker, sweep

HOLD = """
import sys, pathlib
from service.socket.leftovers import MetricsFolder, RunMarker
folder = MetricsFolder()
marker = RunMarker(host="h", port=1, repository=pathlib.Path("/models"))
marker.begin()
print(folder.path, flush=True)
sys.stdin.read()
"""

SHARE = """
import sys
from service.socket.leftovers import sweep_when_last
sys.stdin.read()
sweep_when_last(sys.argv[1], int(sys.argv[2]), within_seconds=float(sys.argv[3]))
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def server(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds a folder and a marker, and the folder's path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.communicate(timeout=20)


def marker() -> RunMarker:
    return RunMarker(host="h", port=1, repository=Path("/models"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def test_folder_of_a_killed_server_is_swept_and_of_a_living_one_is_not(
    server: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = server
    ours = MetricsFolder()
    assert folder.is_dir()
    process.kill()
    process.wait(timeout=20)
    other = MetricsFolder()
    assert not folder.exists()
    assert Path(ours.path).is_dir()
    ours.remove()
    other.remove()
    assert not Path(ours.path).exists()


def sharer(folder: MetricsFolder, *, within_seconds: float) -> subprocess.Popen[str]:
    """Another process of a folder's server, which ends when its input does."""
    return subprocess.Popen(
        [sys.executable, "-c", SHARE, folder.path, str(folder.lock), str(within_seconds)],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        pass_fds=[folder.lock],
        text=True,
    )


def test_of_processes_that_end_at_once_after_the_first_one_sweeps(temporary: Path) -> None:
    folder = MetricsFolder()
    Path(folder.path, "counter_1.db").touch()
    others = [sharer(folder, within_seconds=20) for _ in range(3)]
    for one in others:
        assert one.stdin is not None
        one.stdin.close()
    os.close(folder.lock)  # as the kernel does, once the first is gone
    assert [one.wait(timeout=20) for one in others] == [0, 0, 0]
    assert list(temporary.iterdir()) == []


def test_folder_is_kept_for_whom_it_serves_and_is_nobody_elses(temporary: Path) -> None:
    folder = MetricsFolder()
    lives, ends = (sharer(folder, within_seconds=0) for _ in range(2))
    os.close(folder.lock)
    ends.communicate(timeout=20)
    sweep()
    assert Path(folder.path).is_dir()
    lives.communicate(timeout=20)
    assert list(temporary.iterdir()) == []


def test_folders_that_are_no_servers_are_not_judged(temporary: Path) -> None:
    unlocked, elsewhere = temporary / "heed-metrics-old", temporary / "elsewhere"
    unlocked.mkdir()
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (temporary / "heed-metrics-link").symlink_to(elsewhere)
    (temporary / "heed-metrics-file").touch()
    MetricsFolder().remove()
    assert unlocked.is_dir()
    assert elsewhere.is_dir()


def test_start_after_a_killed_run_says_so_once(
    server: tuple[subprocess.Popen[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    process, _ = server
    process.kill()
    process.wait(timeout=20)
    ours = marker()
    ours.begin()
    (record,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    assert "did not end by itself" in record.getMessage()
    assert vars(record)["fields"]["process"] == process.pid
    ours.end()
    marker().begin()
    assert len(warnings(caplog)) == 1


def test_server_beside_a_living_one_says_nothing_and_leaves_its_mark(
    server: tuple[subprocess.Popen[str], Path], temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = marker()
    second.begin()
    second.end()
    (left,) = temporary.glob("heed-run-*")
    assert json.loads(left.read_text())["process"] == server[0].pid
    assert warnings(caplog) == []


def test_mark_that_was_half_written_is_told_too(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    marker()._path.write_text('{"began": "2026')
    ours = marker()
    ours.begin()
    ours.end()
    assert len(warnings(caplog)) == 1
    assert list(temporary.iterdir()) == []


def test_link_in_the_place_of_the_mark_is_not_followed(
    temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = temporary / "target"
    target.write_text("mine")
    marker()._path.symlink_to(target)
    one = marker()
    one.begin()
    one.end()
    assert target.read_text() == "mine"
    assert warnings(caplog) == []


def test_folder_that_cannot_be_written_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    one = marker()
    one.begin()
    one.end()
    assert warnings(caplog) == []
