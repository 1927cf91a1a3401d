"""Whatever is no regular file is refused at once, and nobody waits for it."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.config import read_json
from models.errors import SpecError
from models.folders.families import read_folder
from models.folders.importing import import_model
from models.regular_files import open_regular, require_regular
from models.text.examples import read_examples
from tests.tiny_architectures import tiny


def test_regular_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


def test_pipe_device_and_folder_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for name, kind in (("pipe", "a named pipe"), ("zeros", "a device"), ("folder", "a folder")):
        with pytest.raises(SpecError, match=f"{name} is {kind}, not a file"):
            open_regular(tmp_path / name)


def test_refused_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(SpecError, match="a named pipe"):
            open_regular(tmp_path / "pipe")
    assert len(os.listdir("/proc/self/fd")) == before


def test_folder_is_looked_through_to_the_folders_in_it(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "config.json").touch()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "itself").symlink_to(tmp_path)
    require_regular(tmp_path)
    os.mkfifo(tmp_path / "1_Pooling" / "pipe\n")
    with pytest.raises(SpecError, match=r"1_Pooling/pipe\\n is a named pipe"):
        require_regular(tmp_path)


def test_readers_of_small_files_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    for name in ("config.json", "examples.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(SpecError, match="named pipe"):
        read_json(tmp_path / "config.json")
    assert read_examples(tmp_path) == ()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_nowhere(path: Path) -> None:
    path.symlink_to("gone")


@pytest.mark.parametrize(
    ("make", "kind"), [(pipe, "a named pipe"), (Path.mkdir, "a folder"), (link_to_nowhere, "a link")]
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_what_is_no_file_is_refused_by_loads_and_import_alike(make, kind, name, tmp_path: Path) -> None:
    source = tmp_path / "source"
    tiny("bert").save_pretrained(source)
    (source / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\n")
    (source / name).unlink(missing_ok=True)
    make(source / name)
    if name == "model.safetensors":
        save_file({"any": torch.zeros(1)}, source / "other.safetensors")
    for read in (read_folder, lambda folder: import_model(folder, tmp_path / "repository")):
        with pytest.raises(SpecError, match=f"{name} is {kind}"):
            read(source)
    assert not [one for one in (tmp_path / "repository").iterdir() if not one.name.startswith(".")]
