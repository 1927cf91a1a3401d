import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import SpecError, UnknownModel
from models.repository import Repository
from models.spec import ModelSpec


def model(folder: Path, config: object = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or ModelSpec(d_model=4).to_config()))
    save_file({"any": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def rows(root: Path) -> list[tuple[str, str]]:
    return [(row["name"], row["version"]) for row in Repository(root).index()]


def reason(root: Path, name: str) -> str:
    (found,) = (row["reason"] for row in Repository(root).index() if row["name"] == name)
    return found


def test_a_plain_folder_is_version_one(tmp_path):
    folder = model(tmp_path / "plain")
    assert Repository(tmp_path).versions("plain") == ["1"]
    assert Repository(tmp_path).find("plain") == Repository(tmp_path).find("plain", "1") == ("1", folder)


def test_the_highest_number_is_the_default_version(tmp_path):
    for version in ("2", "10", "9"):
        model(tmp_path / "own" / version)
    repository = Repository(tmp_path)
    assert repository.versions("own") == ["2", "9", "10"]
    assert repository.find("own") == ("10", tmp_path / "own" / "10")
    assert repository.find("own", "2") == ("2", tmp_path / "own" / "2")


def test_folders_that_are_not_version_numbers_are_not_versions(tmp_path):
    for name in ("1", "01", "0", "v2", "-3", "1.5", "²", "9" * 30, "1_Pooling"):
        model(tmp_path / "own" / name)
    assert Repository(tmp_path).versions("own") == ["1"]


def test_names_are_sorted_and_hidden_folders_and_files_are_left_out(tmp_path):
    for name in ("b", "a", ".being-written"):
        model(tmp_path / name)
    (tmp_path / "README.md").write_text("not a model")
    assert Repository(tmp_path).names() == ["a", "b"]
    assert rows(tmp_path) == [("a", "1"), ("b", "1")]


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../repository", "a/b", "/etc", "a\0b", "a\nb", ".hidden", "a" * 129, "modèle", "none"],
)
def test_a_name_that_is_no_model_is_unknown_and_leads_nowhere(tmp_path, name):
    model(tmp_path / "repository" / "a" / "b")
    with pytest.raises(UnknownModel) as refusal:
        Repository(tmp_path / "repository").find(name)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 120


@pytest.mark.parametrize("version", ["2", "", "../1", "1/../1", "01", "x" * 1000])
def test_a_version_that_is_not_there_is_unknown(tmp_path, version):
    model(tmp_path / "plain")
    with pytest.raises(UnknownModel, match="it has 1") as refusal:
        Repository(tmp_path).find("plain", version)
    assert len(str(refusal.value)) < 120


def test_a_broken_folder_is_listed_with_its_reason_and_hides_no_other(tmp_path):
    model(tmp_path / "good")
    model(tmp_path / "bad", {"model_type": 7})
    model(tmp_path / "versions" / "1", {"heed": 1, "d_model": "wide"})
    model(tmp_path / "versions" / "2")
    (tmp_path / "empty").mkdir()
    (model(tmp_path / "garbage") / "config.json").write_text("{")
    (model(tmp_path / "bare") / "model.safetensors").unlink()
    found = {(row["name"], row["version"]): row["reason"] for row in Repository(tmp_path).index()}
    assert list(found) == [
        *(("bad", "1"), ("bare", "1"), ("empty", ""), ("garbage", "1"), ("good", "1")),
        *(("versions", "1"), ("versions", "2")),
    ]
    assert [key for key, why in found.items() if not why] == [("good", "1"), ("versions", "2")]
    assert "model_type" in found["bad", "1"]
    assert "only safetensors" in found["bare", "1"]
    assert "no config.json" in found["empty", ""]
    assert "not JSON" in found["garbage", "1"]
    assert "d_model" in found["versions", "1"]


def test_a_folder_of_another_architecture_is_left_to_transformers(tmp_path):
    model(tmp_path / "other", {"model_type": "modernbert"})
    assert reason(tmp_path, "other") == ""


def test_a_folder_with_a_name_that_cannot_be_asked_for_is_listed_with_the_reason(tmp_path):
    model(tmp_path / "my model")
    assert "letters, digits" in reason(tmp_path, "my model")
    assert Repository(tmp_path).names() == []


def test_a_configuration_beside_version_folders_is_refused(tmp_path):
    model(tmp_path / "both")
    model(tmp_path / "both" / "2")
    with pytest.raises(SpecError, match="move one away"):
        Repository(tmp_path).find("both")
    assert "move one away" in reason(tmp_path, "both")


def linked(root: Path, at: str, to: Path) -> Repository:
    (root / at).parent.mkdir(parents=True, exist_ok=True)
    (root / at).unlink(missing_ok=True)
    (root / at).symlink_to(to)
    return Repository(root)


def test_a_model_folder_may_be_a_link_within_the_repository(tmp_path):
    model(tmp_path / "real")
    repository = linked(tmp_path, "alias", tmp_path / "real")
    assert repository.find("alias") == ("1", tmp_path / "alias")
    assert reason(tmp_path, "alias") == ""


@pytest.mark.parametrize("at", ["own", "own/1"])
def test_a_folder_that_links_out_of_the_repository_is_refused(tmp_path, at):
    repository = linked(tmp_path / "root", at, model(tmp_path / "outside"))
    with pytest.raises(SpecError, match="leads out of the repository"):
        repository.find("own")
    assert "leads out" in reason(tmp_path / "root", "own")


@pytest.mark.parametrize("at", ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling"])
def test_a_file_that_links_out_of_the_repository_is_refused(tmp_path, at):
    outside = model(tmp_path / "outside")
    model(tmp_path / "root" / "own")
    repository = linked(
        tmp_path / "root", f"own/{at}", outside if at == "1_Pooling" else outside / "config.json"
    )
    with pytest.raises(SpecError, match="leads out of the repository"):
        repository.find("own")


def test_links_to_nowhere_and_in_circles_are_refused(tmp_path):
    model(tmp_path / "nowhere")
    model(tmp_path / "circle")
    linked(tmp_path, "nowhere/weights", tmp_path / "gone")
    repository = linked(tmp_path, "circle/again", tmp_path / "circle" / "again")
    for name in ("nowhere", "circle"):
        with pytest.raises(SpecError, match="leads nowhere"):
            repository.find(name)


def test_a_folder_that_appears_while_serving_is_found(tmp_path):
    repository = Repository(tmp_path)
    assert repository.names() == []
    model(tmp_path / "late")
    assert repository.names() == ["late"]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_repository_that_is_no_folder_is_refused(tmp_path, kind):
    if kind == "file":
        (tmp_path / "root").write_text("")
    with pytest.raises(SpecError, match="not a folder"):
        Repository(tmp_path / "root")


def test_a_repository_that_goes_away_is_a_spec_error(tmp_path):
    (tmp_path / "root").mkdir()
    repository = Repository(tmp_path / "root")
    (tmp_path / "root").rmdir()
    with pytest.raises(SpecError, match="cannot be read"):
        repository.names()
