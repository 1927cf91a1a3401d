"""What a container is granted is read from its files, and kept to."""

from pathlib import Path

import pytest
import torch

from models import runtime
from models.device import capacity
from models.errors import SpecError


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


def test_what_the_allocator_holds_free_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After large batches it holds most of the card, and gives it back before it says that there is none."""
    device = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 20_000)
    assert capacity.available_bytes(device) == 51_000
    capacity.require_room(51_000, device, what="model")
    with pytest.raises(SpecError, match="needs 51001 bytes on cuda:0, where 51000 are free"):
        capacity.require_room(51_001, device, what="model")
