"""Kernels in tiles, compiled for GPUs that are not here: they fit, and nothing leaves their registers."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.attention.tiles.choice import kernel, precision_of, tiles_of

DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
FLOATS = ("LSE", "LOST", "ENTROPY", "TOP_WEIGHTS", "REST", "SINKS", "MEAN", "MOST", "OUT")
INTEGERS = ("TOP_KEYS", "POSITIONS", "HEADS")
NUMBERS = (
    "q_stride",
    "k_stride",
    "v_stride",
    "low",
    "high",
    "hole",
    "own",
    "total",
    "group",
    "heads",
    "top",
    "stride",
)
FLAGS = ("LOW", "HIGH", "HOLE", "OWN", "CAP", "HIDDEN", "BIASED", "SINK", "READS_ENTROPY")


PUT = ("ENTROPY", "TOP_WEIGHTS", "REST", "MEAN", "MOST", "OUT")  # in the dtype of a reply


def compiled(
    name: str, dtype: torch.dtype, width: int, capability: int, reply: str = "fp32", **flags: Any
) -> Any:
    """Compile a kernel of heads of a width as it would be launched."""
    function = kernel(name)
    names = function.arg_names
    types = dict.fromkeys(("Q", "K", "V", "Z"), f"*{TYPES[dtype]}")
    types |= (
        dict.fromkeys(FLOATS, "*fp32")
        | dict.fromkeys(INTEGERS, "*i32")
        | dict.fromkeys(("SEQUENCES", "PLACES", "CHOSEN"), "*i64")
    )
    types |= (
        dict.fromkeys(PUT, f"*{reply}") | dict.fromkeys(NUMBERS, "i32") | {"scale": "fp32", "softcap": "fp32"}
    )
    tiles = tiles_of(dtype, width, much=any(flags.get(one) for one in ("HIDDEN", "BIASED")))
    constants: dict[str, Any] = dict.fromkeys(FLAGS, False)
    constants |= {
        "D": width,
        "D_PADDED": width,
        "DV": width,
        "DV_PADDED": width,
        "LISTED": False,
        "TOP_PADDED": 1,
        "CHOOSES": True,
        "NARROWED": reply != "fp32",
    }
    constants |= {"VALUES": True, "READS_MEAN": True, "READS_MOST": True, "PRECISION": precision_of(dtype)}
    constants |= {"ROWS": tiles.rows, "KEYS": tiles.keys} | flags
    signature = {one: types.get(one, "constexpr") for one in names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, one in enumerate(names)
        if signature[one].startswith("*") or one.endswith("_stride")
    }
    values = {(names.index(one),): value for one, value in constants.items() if one in names}
    return triton.compile(
        ASTSource(function, signature, values, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiles.warps, "num_stages": tiles.stages},
    )


def stack_bytes(made: Any, folder: Path) -> int:
    """Return the bytes that a compiled kernel has for what leaves its registers."""
    file = folder / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    said = subprocess.run(
        [DUMP, "--dump-resource-usage", file], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    found = re.search(r"STACK:(\d+)", said)
    assert found, said
    return int(found[1])


SPILT = 512  # bytes a thread of wide heads in float32, whose products are three each
LISTS = {"LISTED": True, "TOP_PADDED": 8, "READS_ENTROPY": True}
WINDOW = {"LOW": True, "HIGH": True, "CAP": True}
MASKED = {"HIDDEN": True, "BIASED": True, "HIGH": True}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("forward", {"HIGH": True}),
        ("forward", {"HIGH": True, **LISTS}),
        ("forward", WINDOW),
        ("forward", MASKED),
        ("write_weights", {"HIGH": True}),
        ("sum_rows", {"HIGH": True}),
        ("over_heads", {"HIGH": True}),
    ],
    ids=["z", "z, top-k, entropy", "window and softcap", "masked and biased", "weights", "received", "heads"],
)
def test_a_kernel_compiles_for_sm_90_and_spills_nothing(
    name: str, flags: dict[str, Any], width: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    made = compiled(name, dtype, width, 90, **flags)
    assert made.metadata.shared <= 227 * 1024  # of one block, on a GPU of this kind
    assert stack_bytes(made, tmp_path) <= (SPILT if dtype == torch.float32 and width == 128 else 0)


@pytest.mark.parametrize("reply", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["forward", "write_weights", "sum_rows", "over_heads", "put_lse"])
def test_a_kernel_compiles_for_sm_80(name: str, reply: str, tmp_path: Path) -> None:
    made = compiled(name, torch.bfloat16, 64, 80, reply, HIGH=True, **(LISTS if name == "forward" else {}))
    assert made.metadata.shared <= 163 * 1024
    assert stack_bytes(made, tmp_path) == 0


def test_masks_and_biases_compile_for_sm_80(tmp_path: Path) -> None:
    made = compiled("forward", torch.bfloat16, 64, 80, **MASKED)
    assert made.metadata.shared <= 163 * 1024
    assert stack_bytes(made, tmp_path) == 0
