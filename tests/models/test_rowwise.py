"""Kernels over rows without a GPU: in processes with Triton (see tests/triton), and what is done without."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.encoder.mlp import ACTIVATIONS
from models.encoder.rowwise import launch, trial
from tests.triton_processes import ROOT, run_with_triton

CPU = torch.device("cpu")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("mode", "most"), [("interpreted", 198), ("compiled", 70)])
def test_kernels_over_rows_are_right_in_the_interpreter_and_compile_without_a_gpu(
    mode: str, most: int, tmp_path: Path
) -> None:
    # Instructions: blocks go operator by operator, as on a GPU.
    run_with_triton(
        f"test_rows_{mode}.py", mode, passing=most, cache=tmp_path, seconds=500, HEED_INSTRUCTIONS="none"
    )


def test_nothing_of_triton_is_imported_before_a_kernel_is_launched() -> None:
    own = "import sys; import models.encoder.stack; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", own], cwd=ROOT, check=True, timeout=120)


def test_on_a_processor_none_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*_: Any) -> bool:
        raise AssertionError("a kernel was tried")

    monkeypatch.setattr(trial, "agrees", tried)
    assert not trial.norms_on(CPU, torch.float32, 768, rms=True)
    assert not trial.gates_on(CPU, torch.float32, "silu", ACTIVATIONS["silu"])
    assert not trial.turns_on(CPU, torch.float32, 64, 32, interleaved=False)


def test_rows_too_wide_for_one_program_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "launched_on", lambda _: True)
    monkeypatch.setattr(trial, "agrees", lambda *_: True)
    assert trial.norms_on(CPU, torch.float32, 16384, rms=True)
    assert not trial.norms_on(CPU, torch.float32, 16385, rms=True)


def failing(error: Exception) -> Any:
    def kernel(_: str) -> Any:
        raise error

    return kernel


@pytest.mark.parametrize(
    ("name", "shape"),
    [("add_norm", (48, True)), ("gated", ("relu", torch.relu)), ("turn", (16, 8, False, "none"))],
)
def test_a_kernel_that_does_not_compile_is_logged_and_not_used(
    name: str, shape: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(launch, "kernel", failing(ImportError("there is no Triton")))
    assert not trial.agrees.__wrapped__(name, CPU, torch.float32, shape)
    assert f"no kernel {name}" in caplog.text
    assert "there is no Triton" in caplog.text


def test_a_device_without_memory_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    monkeypatch.setattr(launch, "kernel", failing(error))
    trial.agrees.cache_clear()
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            trial.agrees("add_norm", CPU, torch.float32, (48, True))
    assert trial.agrees.cache_info().currsize == 0
