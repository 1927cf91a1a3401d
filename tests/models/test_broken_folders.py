"""One folder never takes another along: whatever its files make a loader raise is that model's reason."""

import json
import logging
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from models import runtime as runtime_module
from models.errors import SpecError
from models.runtime import TorchRuntime
from models.text import calls
from models.text import tokenizer as text
from service.app import create_app
from service.settings import Settings
from tests.models.test_reload import write


class PanicException(BaseException):
    """As pyo3 raises it: beside Exception, not under it."""


class Wordless(Exception):
    def __str__(self) -> str:
        return ""


def config_is_a_folder(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def config_is_a_pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def config_is_a_device(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def config_is_a_circle(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")


def config_is_not_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def config_is_deep(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def weights_are_cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def weights_have_a_lying_head(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")


def weights_are_empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def weights_are_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


def weights_are_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def index_names_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))


def examples_are_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "examples.json")


def something_that_transformers_reads_is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "generation_config.json")


def module_has_a_pipe(folder: Path) -> None:
    (folder / "1_Pooling").mkdir()
    os.mkfifo(folder / "1_Pooling" / "config.json")


def tokenizer_is_a_socket(folder: Path) -> None:
    at = os.open(folder, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{at}/vocab.txt")  # the whole path is too long for a socket
    os.close(at)


def tokenizer_is_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": 7}')


def folder_is_a_circle(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)


def folder_leads_nowhere(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("gone")


BREAKS: tuple[Callable[[Path], None], ...] = (
    config_is_a_folder,
    config_is_a_pipe,
    config_is_a_device,
    config_is_a_circle,
    config_is_not_text,
    config_is_deep,
    weights_are_cut,
    weights_have_a_lying_head,
    weights_are_empty,
    weights_are_a_folder,
    weights_are_a_pipe,
    index_names_a_pipe,
    examples_are_a_pipe,
    something_that_transformers_reads_is_a_pipe,
    module_has_a_pipe,
    tokenizer_is_a_socket,
    tokenizer_is_no_tokenizer,
    folder_is_a_circle,
    folder_leads_nowhere,
)


def serve(repository: Path) -> TorchRuntime:
    return TorchRuntime(repository, models=None, device="cpu", dtype="float32")


def reasons(runtime: TorchRuntime) -> dict[str, str]:
    return {row["name"]: row["reason"] for row in runtime.index()}


def test_a_repository_with_a_broken_folder_of_each_kind_serves_the_good_one_and_tells_why(
    tmp_path: Path,
) -> None:
    for name in ("a-good-one", "z-good-one"):
        write(tmp_path / name, 0)
    for break_it in BREAKS:
        break_it(write(tmp_path / break_it.__name__, 0))
    runtime = serve(tmp_path)
    assert [card.name for card in runtime.cards()] == ["a-good-one", "z-good-one"]
    assert set(reasons(runtime)) == {"a-good-one", "z-good-one", *(one.__name__ for one in BREAKS)}
    with TestClient(create_app(Settings(admin=True), runtime)) as client:
        for break_it in BREAKS:
            reply = client.post(f"/v2/repository/models/{break_it.__name__}/load")
            assert reply.status_code == 422, (break_it.__name__, reply.text)
            assert 10 < len(reply.json()["error"]) < 400
            assert reasons(runtime)[break_it.__name__] == reply.json()["error"]
        assert client.get("/v2/models/a-good-one/ready").status_code == 200


RAISED = [
    AttributeError("'Audio' object has no attribute 'hidden_size'"),
    KeyError("hidden_size"),
    TypeError("unsupported operand"),
    IndexError("list index out of range"),
    ZeroDivisionError("division by zero"),
    AssertionError(),
    RecursionError("maximum recursion depth exceeded"),
    NotImplementedError("no such thing"),
    RuntimeError("size mismatch\nsecond line"),
    OSError(5, "Input/output error"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ValueError("bad name \udcff"),
    MemoryError(),
    StopIteration(),
    ExceptionGroup("several", [ValueError("one")]),
    Wordless(),
    PanicException("called `Option::unwrap()` on a `None` value"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_loader_raises_is_that_model_s_reason(
    tmp_path: Path,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build = runtime_module.build

    def raising(name: str, *arguments: object, **options: object) -> object:
        if name == "bad":
            raise error
        return build(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime_module, "build", raising)
    for name in ("bad", "good"):
        write(tmp_path / name, 0)
    with caplog.at_level(logging.WARNING):
        runtime = serve(tmp_path)
    assert [card.name for card in runtime.cards()] == ["good"]
    reason = reasons(runtime)["bad"]
    first = (str(error).splitlines() or [""])[0].encode("utf-8", "backslashreplace").decode()
    said = type(error).__name__ + (f": {first}" if first else "")
    said = "there is not enough memory" if isinstance(error, MemoryError) else said
    assert reason == f"bad cannot be loaded: {said}"
    assert len([record for record in caplog.records if record.exc_info]) == 1  # one traceback
    with TestClient(create_app(Settings(admin=True), runtime)) as client:
        reply = client.post("/v2/repository/models/bad/load")
        assert (reply.status_code, reply.json()["error"]) == (422, reason)
        rows = client.post("/v2/repository/index").json()
        assert [(row["name"], row["state"], row["reason"]) for row in rows] == [
            ("bad", "UNAVAILABLE", reason),
            ("good", "READY", ""),
        ]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__
)
def test_what_ends_the_process_is_nobody_s_reason(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(*_: object, **__: object) -> object:
        raise error

    monkeypatch.setattr(runtime_module, "build", raising)
    write(tmp_path / "any", 0)
    with pytest.raises(type(error)):
        serve(tmp_path)


def test_a_reload_that_raises_leaves_the_old_model_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "model", 0)
    runtime = serve(tmp_path)
    before = runtime.card("model")

    def raising(*_: object, **__: object) -> object:
        raise KeyError("hidden_size")

    monkeypatch.setattr(runtime_module, "build", raising)
    with pytest.raises(SpecError, match="KeyError"):
        runtime.load("model")
    assert runtime.card("model") is before


def test_index_has_a_reason_where_reading_a_folder_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.folders import repository

    read = repository.read_folder

    def raising(folder: Path) -> object:
        if folder.name == "bad":
            raise TypeError("unhashable type")
        return read(folder)

    monkeypatch.setattr(repository, "read_folder", raising)
    for name in ("bad", "good"):
        write(tmp_path / name, 0)
    found = {row["name"]: row["reason"] for row in repository.Repository(tmp_path).index()}
    assert found == {"bad": "bad cannot be loaded: TypeError: unhashable type", "good": ""}


def test_a_tokenizer_that_panics_at_a_text_refuses_that_text() -> None:
    class Panicking:
        def encode(self, *_: object) -> object:
            raise PanicException("index out of bounds")

    with pytest.raises(text.TextError, match="cannot read this text"):
        calls.encode(Panicking(), "x", None)  # type: ignore[arg-type]
