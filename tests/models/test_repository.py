import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import SpecError, UnknownModel
from models.folders.importing import import_model
from models.folders.repository import Repository
from models.spec import EmbeddingSpec, ModelSpec


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
    model(tmp_path / "other", {"model_type": "nomic_bert"})
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
def test_a_folder_that_links_out_of_the_repository_is_served(tmp_path, at):
    repository = linked(tmp_path / "root", at, model(tmp_path / "outside"))
    assert repository.find("own") == ("1", tmp_path / "root" / at)
    assert reason(tmp_path / "root", "own") == ""


def test_the_cache_of_hugging_face_is_served_with_its_links(tmp_path):
    made, cache = model(tmp_path / "made"), tmp_path / "hub" / "models--org--name"
    snapshot = cache / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted(made.iterdir())):
        file.rename(cache / "blobs" / f"{number:064x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:064x}")
    assert rows(snapshot) == [("c0ffee", "1")]
    repository = linked(tmp_path / "root", "name", snapshot)
    assert repository.find("name") == ("1", tmp_path / "root" / "name")
    assert reason(tmp_path / "root", "name") == ""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A path through /proc/PID/root to `tmp_path`/mount as another process sees it: with a model in it."""
    model(tmp_path / "unseen" / "own")
    (tmp_path / "mount").mkdir()
    script = f"mount --bind {tmp_path}/unseen {tmp_path}/mount && echo mounted && read line"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare on this machine")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"mounted\n":
            pytest.skip("this machine lets nobody mount in a namespace of their own")
        yield Path(f"/proc/{process.pid}/root{tmp_path}/mount")
        process.communicate(b"\n")


def test_links_are_followed_by_the_kernel_and_not_by_their_text(tmp_path, elsewhere):
    assert list((tmp_path / "mount").iterdir()) == []  # where the text of /proc/PID/root leads
    (tmp_path / "models").symlink_to(elsewhere)
    repository = Repository(tmp_path / "models")
    assert repository.find("own") == ("1", tmp_path / "models" / "own")
    assert reason(tmp_path / "models", "own") == ""
    assert Repository(None, {"mine": tmp_path / "models" / "own"}).index()[0]["reason"] == ""
    with pytest.raises(SpecError, match="unexpected 'any'"):  # copied and read: it holds no parameters
        import_model(tmp_path / "models" / "own", tmp_path / "repository")


def test_links_to_nowhere_and_in_circles_are_reasons_where_they_are_needed(tmp_path):
    read = ("modules.json", "tokenizer.json", "vocab.txt", "merges.txt", "tokenizer_config.json")
    for name in ("beside", "weights", "config"):
        model(tmp_path / name)
    of_words = ModelSpec(d_model=4, embedding=EmbeddingSpec(vocabulary=5)).to_config()
    for name in read:
        model(tmp_path / name, {"model_type": "bert"} if name == "modules.json" else of_words)
        linked(tmp_path, f"{name}/{name}", tmp_path / "gone")
    linked(tmp_path, "beside/unread", tmp_path / "gone")
    linked(tmp_path, "weights/model.safetensors", tmp_path / "gone")
    linked(tmp_path, "config/config.json", tmp_path / "config" / "config.json")
    linked(tmp_path, "nowhere", tmp_path / "gone")
    linked(tmp_path, "circle", tmp_path / "circle")
    found = {row["name"]: row["reason"] for row in Repository(tmp_path).index()}
    assert found.pop("beside") == ""
    assert set(found) == {"weights", "config", "nowhere", "circle", *read}
    assert all("leads nowhere" in why for why in found.values()), found
    assert "fetch the model again" in found["weights"]
    assert all(found[name].startswith(f"{name} is a link") for name in read), found
    assert Repository(tmp_path).names() == sorted(("beside", *found))


def test_a_folder_given_by_name_is_served_from_wherever_it_is_and_hides_its_namesake(tmp_path):
    for at in ("root/a", "root/b", "mnt/1", "mnt/12"):
        model(tmp_path / at)
    repository = Repository(tmp_path / "root", {"b": tmp_path / "mnt", "c": tmp_path / "root" / "a"})
    assert repository.names() == ["a", "b", "c"]
    assert repository.find("b") == ("12", tmp_path / "mnt" / "12")
    assert [row["version"] for row in repository.index()] == ["1", "1", "12", "1"]
    alone = Repository(None, {"b": tmp_path / "mnt"})
    assert alone.names() == ["b"]
    with pytest.raises(UnknownModel):
        alone.find("a")


def test_a_folder_given_by_name_that_is_not_there_or_no_folder_is_a_reason(tmp_path):
    (tmp_path / "file").write_text("")
    repository = Repository(None, {"gone": tmp_path / "gone", "file": tmp_path / "file"})
    found = {row["name"]: row["reason"] for row in repository.index()}
    assert "No such file" in found["gone"]
    assert "not a folder" in found["file"]


@pytest.mark.parametrize("trailing", ["", "/", "/."])
def test_a_repository_that_is_itself_a_model_is_served_under_its_own_name(tmp_path, trailing):
    model(tmp_path / "mine" / "1_Pooling").parent.joinpath("keep").mkdir()
    for file in (tmp_path / "mine" / "1_Pooling").iterdir():
        (tmp_path / "mine" / file.name).write_bytes(file.read_bytes())
    repository = Repository(Path(f"{tmp_path}/mine{trailing}"))
    assert repository.names() == ["mine"]
    assert repository.find("mine")[0] == "1"
    assert [(row["name"], row["reason"]) for row in repository.index()] == [("mine", "")]
    with pytest.raises(UnknownModel, match="itself the model 'mine'"):
        repository.find("1_Pooling")


def test_the_working_folder_may_be_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(model(tmp_path / "mine"))
    assert rows(Path()) == rows(Path("../mine")) == [("mine", "1")]


def test_a_name_that_is_not_unicode_is_listed_and_hides_no_other(tmp_path):
    model(tmp_path / "good")
    os.mkdir(os.fsencode(tmp_path) + b"/bad\xff")
    found = {row["name"]: row["reason"] for row in Repository(tmp_path).index()}
    assert found.pop("good") == ""
    ((name, why),) = found.items()
    assert name.encode()
    assert "letters, digits" in why


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
