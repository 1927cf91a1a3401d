"""The unit of deploy/systemd: as systemd reads it, and its command under what it permits."""

import ctypes.util
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.deploy.conftest import DEPLOY, tool
from tests.deploy.containers import ROOT, Container, running

UNIT = DEPLOY / "systemd" / "heed.service"
MOST_EXPOSED = 20  # of 100, as `systemd-analyze security` counts: 2.0 of 10
HEED = Path(sys.executable).with_name("heed")


def service() -> dict[str, list[str]]:
    """Return what stands in [Service], every value of each name."""
    section = ""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith("#") and section == "[Service]":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def environment() -> dict[str, str]:
    words = [word for line in service()["Environment"] for word in shlex.split(line)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / UNIT.name
    (command,) = service()["ExecStart"]
    unit.write_text(UNIT.read_text().replace(shlex.split(command)[0], str(HEED)))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricter"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert "Failed to parse" in done.stderr  # it would have said so


def test_what_it_may_do_is_little() -> None:
    analyze = tool("systemd-analyze")
    said = subprocess.run([analyze, "security", "--help"], capture_output=True, text=True, check=False)
    if "--threshold" not in said.stdout:
        pytest.skip("this systemd-analyze judges no unit files: it is older than 250")
    command = [analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


# Puts the unit's filter of system calls on itself, by the library that systemd uses, and becomes the server.
FILTERED = """
import ctypes, errno, runpy, sys
seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
seccomp.seccomp_init.restype = ctypes.c_void_p
allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
context = ctypes.c_void_p(seccomp.seccomp_init(refuse))
names, sys.argv = sys.argv[1].split(","), sys.argv[4:]
for name in names:
    number = seccomp.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        assert seccomp.seccomp_rule_add(context, allow, number, 0) == 0, name
assert seccomp.seccomp_load(context) == 0
runpy.run_module("service.cli", run_name="__main__", alter_sys=True)
"""


def permitted() -> list[str]:
    """Return the names of system calls that the unit's filters leave."""
    left: set[str] = set()
    for line in service()["SystemCallFilter"]:
        names = {name for word in line.lstrip("~").split() for name in _calls(word)}
        left = left - names if line.startswith("~") else left | names
    return sorted(left)


def _calls(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    command = [tool("systemd-analyze"), "syscall-filter", "--no-pager", word]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    listed = [line.strip() for line in done.stdout.splitlines() if line.startswith(" ")]
    return {name for one in listed if not one.startswith("#") for name in _calls(one)}


class Filtered(Container):
    """A server that may make the system calls that the unit permits."""

    user = 61184  # the first that DynamicUser takes


def test_its_command_starts_with_its_environment_and_its_system_calls(tmp_path: Path) -> None:
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("libseccomp, which systemd filters system calls with, is not installed")
    calls = permitted()
    assert {"mount", "ptrace", "chown", "setuid"}.isdisjoint(calls)
    minilm = ROOT / "repository" / "minilm"
    if not minilm.exists():
        pytest.skip("the demo models are not there: make models")
    Filtered.before = (sys.executable, "-c", FILTERED, ",".join(calls))
    (command,) = service()["ExecStart"]
    program, *args = shlex.split(command)
    assert Path(program).name == HEED.name
    assert HEED.exists()
    (repository := tmp_path / "models").mkdir()
    (repository / "minilm").symlink_to(minilm)
    settings = environment()
    mounts = {settings["HEED_MODEL_REPOSITORY"]: repository}
    with running(args, settings, tmp_path / "tmp", mounts=mounts, kind=Filtered) as server:
        server.wait("/health")
        body = {"inputs": [{"text": "a loan"}], "outputs": ["pooled"]}
        reply = httpx.post(f"{server.url}/v1/models/minilm/attend", json=body, timeout=60)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        (seconds,) = service()["TimeoutStopSec"]
        assert int(seconds) > int(settings["HEED_DRAIN_SECONDS"]) + 2
        assert server.stop(seconds=float(seconds)) == 0, server.said
    assert reply.status_code == 200
    assert "Seccomp:\t2" in status
    assert "Operation not permitted" not in server.said
