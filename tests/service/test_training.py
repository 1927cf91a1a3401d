"""`heed train`: what a person at a terminal meets."""

import signal
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from models.training import grammar
from service.commands import train as training

QUICK = ("--steps", "6", "--d-model", "8", "--heads", "2", "--batch", "4")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(training.train)
    return made


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(grammar.write(60))
    return file


def test_it_writes_a_model_folder_and_says_how_good_it_is(app: typer.Typer, text: Path) -> None:
    out = text.with_name("model")
    result = CliRunner().invoke(app, [str(text), "--out", str(out), *QUICK])
    assert result.exit_code == 0, result.output
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in out.iterdir()}
    assert "than unigram" in " ".join(result.output.split())


def test_an_interrupt_leaves_a_checkpoint_to_resume_from(
    app: typer.Typer, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = text.with_name("model"), text.with_name("whole")
    command = [str(text), "--out", str(out), *QUICK]
    shown = training.Progress.update

    def interrupted(bar: training.Progress, task: int, **fields: object) -> None:
        shown(bar, task, **fields)
        if fields["completed"] == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training.Progress, "update", interrupted)
        result = CliRunner().invoke(app, command)
    assert result.exit_code == training.INTERRUPTED
    assert "4 steps" in result.output
    assert [file.name for file in out.iterdir()] == ["checkpoint.safetensors"]

    assert CliRunner().invoke(app, [*command, "--resume"]).exit_code == 0
    assert CliRunner().invoke(app, [str(text), "--out", str(whole), *QUICK]).exit_code == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_acts_as_ever_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    with training._interruptible() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert signal.getsignal(number) is before[number]
    assert {one: signal.getsignal(one) for one in before} == before


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"too short", (), "longer text"),
        (b"\xff\xfe not UTF-8", (), "utf-8"),
        (b"any", ("--heads", "0"), "heads is 0"),
        (b"any", ("--d-model", "10", "--heads", "4"), "multiple of heads"),
        (b"any", ("--learning-rate", "nan"), "learning_rate"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_status_1(
    app: typer.Typer, text: Path, content: bytes, options: tuple[str, ...], message: str
) -> None:
    if content != b"any":
        text.write_bytes(content)
    result = CliRunner().invoke(app, [str(text), "--out", str(text.with_name("model")), *options])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
