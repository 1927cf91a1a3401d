"""Whatever is no regular file is refused at once, and nobody waits for it."""

import os
from pathlib import Path

import pytest

from models.config import read_json
from models.errors import SpecError
from models.folders.examples import read_examples
from models.folders.importing import import_model
from models.regular_files import open_regular, require_regular


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


def test_import_of_a_folder_with_a_pipe_leaves_the_pipe_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "model.safetensors")
    with pytest.raises(SpecError, match="no safetensors"):
        import_model(source, tmp_path / "repository")
