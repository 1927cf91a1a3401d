import ctypes
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from models.compiled import instructions, native
from models.encoder import linear
from tests.compiled import ALL_OF_THIS_KIND, OF_THIS_KIND, library


@pytest.fixture(params=["compiled", "reference"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same test with compiled code, where there is such, and without; its name as debug logs have it."""
    fixed = {"onednn": 3.0, "torch": 2.0, "heed": 1.0}  # not by who happens to be faster
    monkeypatch.setattr(linear, "_fastest", {})
    monkeypatch.setattr(linear, "_best_seconds", lambda kernels, _: {name: fixed[name] for name in kernels})
    if request.param == "reference":
        monkeypatch.setattr(native, "load_native", lambda: None)
    elif native.native() is None:
        pytest.skip("Heed was installed without a C compiler, or not for this processor")
    return str(request.param)


@pytest.fixture(params=OF_THIS_KIND)
def ours(request: pytest.FixtureRequest) -> native.Native:
    """The compiled functions, for each set of instructions this processor has."""
    if request.param not in instructions.sets_of(library()):
        pytest.skip(f"this processor has not {request.param}")
    return native.Native(library(), request.param)


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """AMX by a handler of signals, for processors that have what else its products need: see tiles.c."""
    if "avx512_bf16" not in instructions.sets_of(library()) or shutil.which("gcc") is None:
        pytest.skip("AMX needs a processor with AVX512_BF16, and its emulator a C compiler")
    built = tmp_path_factory.mktemp("tiles") / "tiles.so"
    source = Path(__file__).with_name("tiles.c")
    command = ["gcc", "-O2", "-mfma", "-std=c11", "-shared", "-fPIC", str(source), "-o", str(built)]
    subprocess.run(command, check=True, timeout=60)
    return ctypes.CDLL(str(built))


@pytest.fixture(params=ALL_OF_THIS_KIND)
def each(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[native.Native]:
    """The same, also for sets that differ in numbers narrower than float32 alone."""
    there = instructions.sets_of(library())
    if request.param in there:
        yield native.Native(library(), request.param)
        return
    if request.param != "avx512_amx":
        pytest.skip(f"this processor has not {request.param}")
    emulator = request.getfixturevalue("tiles")
    monkeypatch.setattr(instructions, "sets_of", lambda _: (*there, request.param))
    emulator.tiles_begin(0)
    try:
        yield native.Native(library(), request.param)
    finally:
        kept = emulator.tiles_end() < 0
    assert not kept, "a thread has kept its tiles"


@pytest.fixture
def threads():
    """Set how many threads the next calls have."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def computed(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[int | None, str, list[int]]]]:
    """Return what the debug log says since the last call: layer, backend and which places of the batch."""
    caplog.set_level(logging.DEBUG, "models.attention.backends")

    def read() -> list[tuple[int | None, str, list[int]]]:
        found = [record.args for record in caplog.records if record.name == "models.attention.backends"]
        caplog.clear()
        return found  # type: ignore[return-value]

    return read
