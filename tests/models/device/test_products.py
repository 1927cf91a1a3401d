"""float32 on a GPU is float32: set, looked at and tried, whatever the environment says; TF32 by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.device import products
from models.device.gpu import pick
from models.device.products import check_products, is_fine, set_products
from models.encoder.dtypes import DTYPES, require_dtype
from models.errors import SpecError

CPU = torch.device("cpu")
SCRIPT = """
import json, os, sys, torch
from models.device.products import set_products
before = torch.get_float32_matmul_precision()
set_products(json.loads(sys.argv[1]))
matmul = torch.backends.cuda.matmul
print(json.dumps({
    "before": before, "after": torch.get_float32_matmul_precision(), "tf32": matmul.allow_tf32,
    "convolutions": torch.backends.cudnn.allow_tf32,
    "sums": [
        bool(matmul.allow_fp16_reduced_precision_reduction),
        bool(matmul.allow_bf16_reduced_precision_reduction),
    ],
    "workspaces": os.environ["CUBLAS_WORKSPACE_CONFIG"],
}))
"""


def after(*dtypes: str, **environment: str) -> dict[str, object]:
    """What a process of its own has set: the switches are of a process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(dtypes)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_float32_is_float32_though_the_environment_says_otherwise() -> None:
    found = after("float32", "bfloat16", TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1")
    assert found["before"] == "high"  # what images of NVIDIA's bring along
    assert (found["after"], found["tf32"], found["convolutions"]) == ("highest", False, False)
    assert found["sums"] == [False, False]
    assert found["workspaces"] == ":4096:8"


def test_tf32_is_what_is_asked_for_by_name() -> None:
    found = after("tf32", "bfloat16", CUBLAS_WORKSPACE_CONFIG=":16:8")
    assert (found["before"], found["after"], found["tf32"], found["convolutions"]) == (
        "highest",
        "high",
        True,
        True,
    )
    assert found["workspaces"] == ":16:8"  # the operator's own stays


def test_one_process_has_one_switch() -> None:
    with pytest.raises(SpecError, match=r"float32 and tf32 are both asked for.*choose one"):
        set_products(["float32", "tf32"])


def test_a_switch_that_does_not_move_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)
    with pytest.raises(SpecError, match=r"switched on here; unset TORCH_ALLOW_TF32.*or choose dtype float32"):
        set_products(["tf32"])


def test_a_product_tells_float32_from_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_fine(CPU)
    check_products(["float32"], CPU)
    # Ten bits after the point are kept of 1 + 2⁻¹².
    monkeypatch.setattr(products, "FINE", 1.0 + 2.0**-30)
    assert is_fine(CPU)  # the number itself is 1 in float32, so a product keeps it
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda *_, **__: _Rounded(full((4, 4), 1.0 + 2.0**-12)))
    with pytest.raises(SpecError, match=r"rounded to TF32.*unset NVIDIA_TF32_OVERRIDE, or choose dtype tf32"):
        check_products(["float32", "bfloat16"], CPU)


class _Rounded(torch.Tensor):
    """What a device multiplies in TF32."""

    def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
        bits = self.as_subclass(torch.Tensor).clone().view(torch.int32)
        return (bits & ~((1 << 13) - 1)).view(torch.float32)


def test_tf32_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="tf32 is for GPUs of NVIDIA's, and this is cpu; choose float32"):
        require_dtype("tf32", CPU)
    require_dtype("tf32", torch.device("cuda:0"))
    assert DTYPES["tf32"] is torch.float32
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(SpecError, match=r"compute capability 8.0, and this one has 7.5; choose float32"):
        check_products(["tf32"], torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_products(["tf32"], torch.device("cuda:0"))


def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SpecError, match="cuda:9 was asked for, but torch sees 2 of them, cuda:0 to cuda:1"):
        pick("cuda:9")
    assert pick("cuda:1") == torch.device("cuda:1")
    assert pick("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="torch sees no GPU; use cpu or auto"):
        pick("cuda")
    assert pick("auto") == CPU
