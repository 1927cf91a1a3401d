"""Kernels over rows, compiled for GPUs that are not here: they fit, and nothing leaves their registers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.encoder.mlp import ACTIVATIONS
from models.encoder.rowwise.choice import RowTiles, gate_tiles, head_tiles, kernel, power, row_tiles
from tests.triton.test_compiled import TYPES, stack_bytes

ROWS = ("X", "Z", "MORE", "Q", "K", "GATE", "UP", "SUM", "NORMED", "OUT", "Q_OUT", "K_OUT")
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
CAPABILITIES = pytest.mark.parametrize("capability", [80, 90])


def compiled(name: str, dtype: torch.dtype, tiles: RowTiles, capability: int, **constants: Any) -> Any:
    """Compile a kernel as it would be launched on rows that a projection left side by side."""
    function = kernel(name)
    names = function.arg_names
    own = f"*{TYPES[dtype]}"
    types = {one: own for one in names if one in ROWS or one.endswith(("_WEIGHT", "_BIAS"))}
    types |= {"COSINES": "*fp32", "SINES": "*fp32"}
    types |= {one: "fp32" for one in names if one.endswith("eps")}
    signature = {one: "constexpr" if one in constants else types.get(one, "i32") for one in names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, one in enumerate(names)
        if signature[one].startswith("*") or one.endswith(("_stride", "_row", "_head"))
    }
    values = {(names.index(one),): value for one, value in constants.items()}
    made = triton.compile(
        ASTSource(function, signature, values, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiles.warps},
    )
    assert made.metadata.shared <= 48 * 1024
    return made


@CAPABILITIES
@DTYPES
@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
@pytest.mark.parametrize("width", [384, 768, 4096, 16384])
def test_norms_keep_rows_in_registers(
    width: int, rms: bool, dtype: torch.dtype, capability: int, tmp_path: Path
) -> None:
    tiles = row_tiles(width)
    both = {"INNER": rms, "OUTER": True, "INNER_BIASED": False, "OUTER_BIASED": not rms}
    made = compiled(
        "add_norm", dtype, tiles, capability, WIDTH=width, ROWS=tiles.rows, COLUMNS=tiles.columns,
        ADDS=True, RMS=rms, WRITES_SUM=True, ADDS_MORE=not rms, **both,
    )  # fmt: skip
    assert stack_bytes(made, tmp_path) == 0


@CAPABILITIES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_compiles(activation: str, capability: int, tmp_path: Path) -> None:
    tiles = gate_tiles(3072)
    made = compiled(
        "gated", torch.bfloat16, tiles, capability, WIDTH=3072, ROWS=tiles.rows, COLUMNS=tiles.columns,
        ACTIVATION=activation, GATES=True,
    )  # fmt: skip
    assert stack_bytes(made, tmp_path) == 0


@CAPABILITIES
@DTYPES
@pytest.mark.parametrize(
    ("width", "half", "interleaved", "norm"),
    [
        (64, 32, False, "none"),
        (128, 64, False, "rms"),
        (256, 128, False, "none"),
        (128, 32, True, "layer"),
        (80, 16, True, "none"),
    ],
)
def test_turning_keeps_vectors_in_registers(
    width: int, half: int, interleaved: bool, norm: str, dtype: torch.dtype, capability: int, tmp_path: Path
) -> None:
    tiles = head_tiles(half)
    made = compiled(
        "turn", dtype, tiles, capability, WIDTH=width, HALF=half, VECTORS=tiles.rows, COLUMNS=tiles.columns,
        REST=power(width - 2 * half), INTERLEAVED=interleaved, NORMS=norm != "none", RMS=norm == "rms",
        BIASED=norm == "layer", IN_PLACE=True,
    )  # fmt: skip
    assert stack_bytes(made, tmp_path) == 0
