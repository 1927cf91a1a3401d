from pathlib import Path

from typer.testing import CliRunner

from service.cli import cli


def test_import_says_what_it_found(minilm_folder: Path, tmp_path: Path) -> None:
    command = ["import", str(minilm_folder), "--repository", str(tmp_path / "models"), "--name", "small"]
    done = CliRunner().invoke(cli, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    said = dict(line.split(maxsplit=1) for line in done.output.splitlines())
    assert said["model"].startswith("small, version 1, in ")
    assert said["family"] == "bert"
    assert said["sizes"] == "6 layers, 12 heads, d_model 384"
    assert said["sha256"].startswith("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")
    assert said["pooled"] == "mean, normalised"
    assert (tmp_path / "models" / "small" / "model.safetensors").is_file()


def test_import_of_nothing_is_refused_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["import", str(tmp_path / "none"), "--repository", str(tmp_path / "models")]
    )
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "heed: " in done.output
