import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service import __version__
from service.cli import cli
from service.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """A runner in an environment without settings of the developer's own, on a wide terminal."""
    for name in [name for name in os.environ if name.startswith("HEED_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "dumb")
    return CliRunner()


def test_help_names_the_commands(run: CliRunner) -> None:
    result = run.invoke(cli, ["--help"])
    assert result.exit_code == 0
    for command in ("serve", "train"):
        assert command in result.output


def test_version_is_the_packages(run: CliRunner) -> None:
    result = run.invoke(cli, ["--version"])
    assert (result.exit_code, result.output) == (0, f"heed {__version__}\n")


def test_serve_has_an_option_for_every_setting_with_its_default(run: CliRunner) -> None:
    words = " ".join(run.invoke(cli, ["serve", "--help"]).output.split())
    for name, field in Settings.model_fields.items():
        assert field.description is not None
        (option,) = words.split(f" --{name.replace('_', '-')} ")[1:]
        assert field.description.split("`")[0] in option
        if isinstance(field.default, int):
            assert option.partition("[default: (")[2].startswith(f"{str(field.default).lower()})]")


def test_help_on_a_narrow_terminal_cuts_no_option(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    output = run.invoke(cli, ["serve", "--help"]).output
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')} " not in output] == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--model-repository", ""], "HEED_MODEL_REPOSITORY"),
        (["--port", "x"], "HEED_PORT"),
        (["--max-wait-ms", "100", "--deadline-ms", "50"], "MAX_WAIT_MS"),
        (["--api-keys", "a,"], "HEED_API_KEYS"),
        (["--health-route", "/v1/embeddings"], "HEALTH_ROUTE (AIP_HEALTH_ROUTE) is /v1/embeddings"),
    ],
)
def test_bad_option_refuses_to_start_and_says_why(run: CliRunner, arguments: list[str], problem: str) -> None:
    result = run.invoke(cli, ["serve", *arguments])
    assert result.exit_code == 2
    assert problem in result.stderr


def test_unknown_variable_refuses_to_start(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEED_PROT", "9000")
    result = run.invoke(cli, ["serve"])
    assert result.exit_code == 2
    assert "the nearest is HEED_PORT" in result.stderr


def test_port_that_is_taken_is_refused_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-X", "importtime", "-m", "service.cli", "serve", "--port", port]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.stderr
    assert not any(line.endswith("| torch") for line in result.stderr.splitlines())


def test_repository_that_is_missing_is_refused_with_its_name(tmp_path: Path) -> None:
    result = start_nowhere(tmp_path)
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert "Traceback" not in result.stderr


def start_nowhere(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--model-repository", "nowhere"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_keys_that_are_set_and_empty_are_warned_of(tmp_path: Path) -> None:
    warned = [
        line for line in start_nowhere(tmp_path, HEED_API_KEYS="").stderr.splitlines() if "API_KEYS" in line
    ]
    assert [json.loads(line)["level"] for line in warned] == ["warning"]
    assert "API_KEYS" not in start_nowhere(tmp_path, HEED_API_KEYS="a").stderr
