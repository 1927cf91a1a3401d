"""What a container is granted is read from its files, and kept to."""

from pathlib import Path

import pytest
import torch

from models import runtime
from models.device import capacity


@pytest.mark.parametrize(
    ("said", "cores"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("6400000 100000\n", 64),
        ("max 100000\n", None),
        ("100000 0\n", None),
        ("", None),
        ("three words here", None),
        (None, None),
    ],
)
def test_a_quota_is_whole_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str | None, cores: int | None
) -> None:
    monkeypatch.setattr(capacity, "GROUP", tmp_path)
    if said is not None:
        (tmp_path / "cpu.max").write_text(said)
    assert capacity.granted_cores() == cores


@pytest.mark.parametrize(
    ("granted", "asked", "threads"), [(None, None, 6), (8, None, 6), (2, None, 2), (2, "5", 6)]
)
def test_no_more_threads_than_are_granted_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, granted: int | None, asked: str | None, threads: int
) -> None:
    set_to = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(runtime, "granted_cores", lambda: granted)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert runtime._threads() == threads
    assert set_to == ([threads] if threads < 6 else [])
