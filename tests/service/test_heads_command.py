import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import cli

SAMPLES = Path(__file__).parents[1] / "models" / "heads" / "samples"


def heads(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["heads", *map(str, arguments)], env={"COLUMNS": "200"})
    return done.exit_code, done.output


@pytest.fixture
def model(minilm_folder: Path, tmp_path: Path) -> Path:
    """A folder of minilm's configuration and, by links, everything else."""
    folder = tmp_path / "minilm"
    folder.mkdir()
    for file in minilm_folder.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def test_a_set_is_imported_and_listed(model: Path) -> None:
    status, said = heads("import", SAMPLES / "qrhead.yaml", "--model", model, "--source", "arXiv:2506.09944")
    assert status == 0, said
    assert said.splitlines()[0] == f"qr in {model}"
    written = json.loads((model / "head_sets.json").read_text())
    assert written == {"qr": {"pairs": [[1, 0], [0, 3], [1, 2]], "source": "arXiv:2506.09944"}}
    status, said = heads("list", model)
    assert status == 0
    assert said.splitlines()[1].split() == ["qr", "3", "2", "1.0", "0.3", "1.2", "arXiv:2506.09944"]


def test_folder_without_sets_is_told_how_to_get_some(model: Path) -> None:
    status, said = heads("list", model)
    assert status == 0
    assert said.startswith("minilm has no head sets; `heed heads import FILE")


def test_what_cannot_be_imported_is_refused_in_one_line(model: Path, tmp_path: Path) -> None:
    for file in (tmp_path / "none.yaml", SAMPLES / "core.json"):
        heads("import", SAMPLES / "core.json", "--model", model)
        status, said = heads("import", file, "--model", model)
        assert status == 1
        assert said.startswith("heed: ")
        assert said.count("\n") == 1
    status, said = heads("list", tmp_path / "nowhere")
    assert (status, said.count("\n")) == (1, 1)
