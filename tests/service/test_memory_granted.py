"""The default budget is half of what is free, by whichever limit is the nearest."""

import resource
from pathlib import Path

import pytest

from service.memory_granted import LEAST_BYTES, PROCESS_BYTES, default_budget

GIB = 1 << 30
V1_WITHOUT_LIMIT = 9223372036854771712


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\theed\nVmSize:\t 9000000 kB\nVmRSS:\t  524288 kB\n")
    return tmp_path


def group(root: Path, line: str, **limits: object) -> Path:
    (root / "proc/self/cgroup").write_text(line + "\n")
    for place, limit in limits.items():
        file = root / "sys/fs/cgroup" / place.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return root


def test_half_of_what_a_control_group_leaves(root: Path) -> None:
    group(root, "0::/", memory_dot_max=2 * GIB)
    assert default_budget(root=root) == (2 * GIB - GIB // 2) // 2


def test_the_least_of_a_group_and_those_above_it(root: Path) -> None:
    group(root, "0::/pod/heed", pod__heed__memory_dot_max="max", pod__memory_dot_max=GIB)
    assert default_budget(root=root) == GIB // 4


def test_the_older_control_groups_are_read_too(root: Path) -> None:
    group(root, "4:memory:/a\n0::/", memory__a__memory_dot_limit_in_bytes=GIB)
    assert default_budget(root=root) == GIB // 4


def test_a_container_that_sees_its_own_group_as_the_root(root: Path) -> None:
    group(root, "4:cpu,memory:/docker/1234", memory__memory_dot_limit_in_bytes=GIB)
    assert default_budget(root=root) == GIB // 4


def test_other_http_processes_are_made_room_for(root: Path) -> None:
    group(root, "0::/", memory_dot_max=4 * GIB)
    assert default_budget(processes=2, root=root) == (4 * GIB - GIB // 2 - 2 * PROCESS_BYTES) // 2


def test_without_any_limit_it_is_the_machine(root: Path) -> None:
    group(root, "4:memory:/", memory__memory_dot_limit_in_bytes=V1_WITHOUT_LIMIT)
    machine = default_budget(root=root)
    (root / "proc/self/cgroup").unlink()
    assert default_budget(root=root) == machine >= LEAST_BYTES


def test_models_that_leave_nothing_leave_a_little(root: Path) -> None:
    group(root, "0::/", memory_dot_max=GIB // 2)
    assert default_budget(root=root) == LEAST_BYTES


def test_a_limit_of_the_address_space_is_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = 9_000_000 * 1024
    monkeypatch.setattr(resource, "getrlimit", lambda _: (mapped + GIB, resource.RLIM_INFINITY))
    assert default_budget(root=root) == GIB // 2
