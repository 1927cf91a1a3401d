"""What the weights of a model may be kept in, by the device they are on."""

import torch

from models.compiled import instructions
from models.compiled.native import native
from models.device.products import TF32
from models.errors import SpecError

# Of int8 there are no weights to load: they are loaded as they are stored, until the model is calibrated.
# Of tf32 it is products that are narrower, not what is kept.
DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def require_dtype(dtype: str, device: torch.device) -> None:
    """Raise SpecError where weights cannot be kept so on a device."""
    if dtype not in (*DTYPES, "int8"):
        raise SpecError(f"unknown dtype {dtype[:40]!r}; known: {', '.join([*DTYPES, 'int8'])}")
    if dtype == TF32 and device.type != "cuda":
        raise SpecError(
            f"dtype tf32 is for GPUs of NVIDIA's, and this is {device}; choose float32 or bfloat16"
        )
    if dtype != "int8":
        return
    if device.type != "cpu":
        raise SpecError(f"dtype int8 is for processors, and this is {device}; choose bfloat16 or float16")
    if instructions.left_out():
        raise SpecError(
            f"dtype int8 needs Heed's compiled code, which {instructions.VARIABLE} 'none' leaves out; "
            "give auto, or choose bfloat16"
        )
    ours = native()
    if ours is None or "int8" not in ours.keeps:
        raise SpecError(
            "dtype int8 needs Heed's compiled code, which this installation or processor has none of; "
            "install Heed where there is a C compiler, or choose bfloat16"
        )
