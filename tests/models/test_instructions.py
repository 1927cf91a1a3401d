"""Which set of instructions compiled code uses: the widest there is, the one asked for, or a refusal."""

import subprocess
import sys
import typing
from ctypes import CDLL
from pathlib import Path

import pytest

from models.compiled import instructions
from models.compiled import native as module
from models.compiled.native import Native, native
from models.errors import ModelError
from service.settings import Settings
from tests.compiled import library, random
from tests.models import test_stack

needs_compiled = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")


class Narrow:
    """A library on a processor that has AVX2 and nothing wider."""

    def heed_has(self, number: int) -> int:
        return number == instructions.SETS["avx2"]


class Foreign(Narrow):
    """A library on a processor that we have no code for."""

    def heed_has(self, number: int) -> int:
        return 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> typing.Callable[[str], None]:
    return lambda name: monkeypatch.setenv(instructions.VARIABLE, name)


def test_the_widest_set_is_used_where_none_is_asked_for(
    asked: typing.Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for unset in ("", "auto"):
        asked(unset)
        assert instructions.chosen(Narrow()) == "avx2"
        assert instructions.chosen(Foreign()) is None
    monkeypatch.delenv(instructions.VARIABLE)
    assert instructions.chosen(Narrow()) == "avx2"


def test_none_leaves_all_work_to_torch(
    asked: typing.Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    asked("none")
    assert instructions.chosen(Narrow()) is None
    assert module.load_native.__wrapped__() is None


@pytest.mark.parametrize("name", ["avx512", "sse", "AVX2"])
def test_a_set_that_the_processor_lacks_is_refused_with_those_it_has(
    name: str, asked: typing.Callable[[str], None]
) -> None:
    asked(name)
    with pytest.raises(ModelError, match=f"'{name}', which this processor has not; .*auto, none, avx2$"):
        instructions.chosen(Narrow())


@needs_compiled
@pytest.mark.parametrize("name", instructions.SETS)
def test_each_set_that_there_is_can_be_asked_for(name: str, asked: typing.Callable[[str], None]) -> None:
    asked(name)
    if name not in instructions.sets_of(library()):
        with pytest.raises(ModelError, match="has not"):
            module.load_native.__wrapped__()
        with pytest.raises(ValueError, match="has not"):
            Native(library(), name)
        return
    ours = module.load_native.__wrapped__()
    assert (
        ours.lay_out(random(64, 8), None).columns
        == Native(library(), name).lay_out(random(64, 8), None).columns
    )


@needs_compiled
@pytest.mark.parametrize("name", test_stack.SPECS)
def test_models_agree_with_float64_whatever_the_set(
    ours: Native, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_native", lambda: ours)
    test_stack.test_ragged_batch_agrees_with_float64(name)


@needs_compiled
def test_sets_of_other_width_lay_weights_out_otherwise(asked: typing.Callable[[str], None]) -> None:
    columns = {
        name: library().heed_columns(instructions.SETS[name]) for name in instructions.sets_of(library())
    }
    known = {"avx2": 16, "avx512": 32, "neon": 8}
    assert columns == {name: known[name.partition("_")[0]] for name in columns}


@needs_compiled
@pytest.mark.parametrize("wrong", [False, True])
def test_tiles_are_used_where_they_multiply_as_other_instructions_do(tiles: CDLL, wrong: bool) -> None:
    if "avx512_amx" in instructions.sets_of(library()):
        pytest.skip("this processor has them, and is never wrong")
    tiles.tiles_begin(int(wrong))
    agree = library().heed_tiles_agree()
    assert tiles.tiles_end() > 0
    assert agree == (not wrong)


@needs_compiled
def test_a_processor_without_tiles_has_the_next_best_set() -> None:
    has = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    there = instructions.sets_of(library())
    if all(name in has for name in ("amx_tile", "amx_bf16", "amx_int8")):
        pytest.skip("this processor has them")
    assert "avx512_amx" not in there
    assert instructions.chosen(library()) == there[-1]


@pytest.mark.parametrize(
    ("using", "kept_as", "ends_with"),
    [
        ("avx512_amx", "bfloat16", ":amx"),
        ("avx512_amx", "int8", ":amx"),
        ("avx512_amx", "float16", ":widened"),
        ("avx512_amx", "float32", ""),
        ("avx512_bf16", "bfloat16", ""),
        ("avx2_vnni", "int8", ""),
        ("avx512", "int8", ":widened"),
        ("neon", "bfloat16", ":widened"),
    ],
)
def test_a_kernel_is_called_by_how_it_multiplies(using: str, kept_as: str, ends_with: str) -> None:
    assert instructions.manner(using, kept_as) == ends_with


def test_the_setting_has_every_set() -> None:
    offered = typing.get_args(Settings.model_fields["instructions"].annotation)
    assert set(offered) == {instructions.WIDEST, instructions.NOTHING, *instructions.SETS}


def test_a_server_asked_for_what_is_not_there_refuses_to_start() -> None:
    script = """
from models.compiled import instructions
instructions.sets_of = lambda library: ("avx2",)
from service.cli import cli
cli(["serve", "--instructions", "avx512", "--port", "0", "--allow-empty"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "HEED_INSTRUCTIONS is 'avx512'" in done.stderr
    assert "auto, none, avx2" in done.stderr
