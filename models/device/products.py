"""What float32 products are made of on a GPU, and where cuBLAS works: set when the server starts.

Torch has one switch for all of a process. It is off by default, but for a variable that images of NVIDIA's
set, and drivers have their own; so it is set, and then a product is tried.
"""

import os
from collections.abc import Collection
from typing import Any

import torch

from models.errors import SpecError

TF32 = "tf32"
TRIED = 256  # rows and columns of the product that is tried: small ones are made otherwise
FINE = 1.0 + 2.0**-12  # which float32 holds and TF32 does not: it has 10 bits after the point
TF32_SINCE = (8, 0)  # compute capability
# cuBLAS repeats its bits beside other streams only with workspaces given to it (its manual, 2.1.4).
WORKSPACES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def set_products(dtypes: Collection[str]) -> None:
    """Let float32 products be of float32, or of TF32 where that is among the `dtypes`, and all sums float32.

    Before anything is computed on the device. Raises SpecError where float32 and TF32 are both asked for, and
    where the switch does not move.
    """
    wanted = TF32 in dtypes
    if wanted and "float32" in dtypes:
        raise SpecError(
            "dtypes float32 and tf32 are both asked for, but a process has one switch for all its products; "
            "choose one of them for all models"
        )
    for name, value in WORKSPACES.items():
        os.environ.setdefault(name, value)
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    torch.backends.cudnn.allow_tf32 = wanted
    matmul: Any = torch.backends.cuda.matmul
    matmul.allow_fp16_reduced_precision_reduction = False
    matmul.allow_bf16_reduced_precision_reduction = False
    if bool(matmul.allow_tf32) != wanted:
        raise SpecError(
            f"torch does not let TF32 be switched {'on' if wanted else 'off'} here; unset "
            f"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, or choose dtype {'float32' if wanted else TF32}"
        )


def check_products(dtypes: Collection[str], device: torch.device) -> None:
    """Raise SpecError unless float32 products on a device are what `set_products` has set."""
    if TF32 in dtypes:
        capability = torch.cuda.get_device_capability(device)
        if capability < TF32_SINCE:
            raise SpecError(
                f"dtype tf32 needs a GPU of compute capability {TF32_SINCE[0]}.{TF32_SINCE[1]}, and this one "
                f"has {capability[0]}.{capability[1]}; choose float32"
            )
        return
    if not is_fine(device):
        raise SpecError(
            "float32 products are rounded to TF32 on this device, though that is switched off; unset "
            "NVIDIA_TF32_OVERRIDE, or choose dtype tf32"
        )


def is_fine(device: torch.device) -> bool:
    """Whether a float32 product keeps what float32 holds."""
    x = torch.full((TRIED, TRIED), FINE, device=device)
    return torch.equal(x @ torch.eye(TRIED, device=device), x)
