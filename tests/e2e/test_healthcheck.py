"""The image's HEALTHCHECK, without a container: it finds the server wherever somebody let it listen."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service.commands.healthcheck import addresses, check
from tests.e2e.test_where import START_SECONDS, Run, Running
from tests.e2e.test_where import folder as folder
from tests.e2e.test_where import run as run
from tests.models.test_reload import write
from tests.waiting import wait_until


def proc_of(running: Running, folder: Path) -> Path:
    """Return /proc as it is in a container, with the processes of one server alone."""
    family = [running.process.pid]
    for parent in family:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            family += map(int, children.read_text().split())
    proc = folder / "proc"
    proc.mkdir()
    (proc / "net").symlink_to("/proc/net")
    for number in family:
        (proc / str(number)).symlink_to(f"/proc/{number}")
    return proc


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("words", "environ", "host"),
    [
        (["--port", "PORT"], {"HEED_PORT": "1"}, "127.0.0.1"),
        (["--port=PORT", "--host=::"], {}, "::1"),
        (
            ["--http-workers", "2"],
            {"HEED_HOST": "0.0.0.0"},
            "127.0.0.1",
        ),  # --port 0, as in every test of these
    ],
    ids=["an option over a variable", "IPv6", "any port and several processes"],
)
def test_server_is_found_where_it_listens(
    run: Run,
    folder: Path,
    tmp_path: Path,
    words: list[str],
    environ: dict[str, str],
    host: str,
    free_port: int,
) -> None:
    write(folder / "repository" / "mine", 0)
    running = run(*(word.replace("PORT", str(free_port)) for word in words), environ=environ)
    port = int(running.url.rpartition(":")[2])
    proc = proc_of(running, tmp_path)
    assert addresses(proc) == [(host, port)], running.said
    assert check(proc) == 0
    running.process.send_signal(signal.SIGTERM)
    wait_until(lambda: check(proc) == 1, "draining is not well")
    assert running.process.wait(timeout=START_SECONDS) == 0


@pytest.mark.parametrize(
    ("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("10.0.0.7", "10.0.0.7"), ("::", "::1")]
)
def test_environment_is_asked_where_no_process_can_be_looked_into(tmp_path, monkeypatch, host, asked):
    monkeypatch.setenv("HEED_HOST", host)
    monkeypatch.setenv("HEED_PORT", "81")
    assert addresses(tmp_path) == [(asked, 81)]


def test_a_server_that_does_not_listen_yet_is_not_well(tmp_path, capsys):
    process = tmp_path / "7"
    (process / "fd").mkdir(parents=True)
    (process / "cmdline").write_bytes(b"/opt/heed/bin/python\0/opt/heed/bin/heed\0serve\0")
    assert check(tmp_path) == 1
    assert "no server listens" in capsys.readouterr().out


def test_it_is_quick_to_import():
    """It runs every ten seconds, beside a server that needs the processor."""
    line = "import sys, service.commands.healthcheck; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert {"typer", "pydantic", "fastapi", "numpy", "asyncio"} & set(done.stdout.split()) == set()
