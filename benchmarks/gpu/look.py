"""What there is on a device: kernels that are chosen, whether ours agree with what is written, host costs."""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from models.attention.ragged.choice import ragged_name
from models.attention.tiles.trial import disagreement
from models.compiled.rules import ScoreRule

WIDTHS = (16, 64, 80, 128, 256)
RULES = {
    "all": ScoreRule(),
    "causal": ScoreRule(high=0),
}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def run(*, device: str) -> list[dict[str, object]]:
    """Print and return what is found; nothing that fails stops what comes after it."""
    found: list[dict[str, object]] = []

    def told(what: str, look: Callable[[], object]) -> None:
        try:
            value = look()
        except Exception as error:  # noqa: BLE001 - whatever a driver or a compiler says is a finding
            value = f"{type(error).__name__}: {str(error)[:200]}"
        found.append({"what": what, "found": value})
        print(f"  {what}: {value}", flush=True)

    there = torch.device(device)
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        for width in WIDTHS:
            told(
                f"kernel of torch, {name}, width {width}",
                lambda dtype=dtype, width=width: ragged_name(there, dtype, width, 1),
            )
            for rule, scoring in RULES.items():
                told(
                    f"kernels in tiles, {name}, width {width}, {rule}: largest difference from float64",
                    lambda dtype=dtype, width=width, scoring=scoring: disagreement(
                        there, dtype, width, width, scoring
                    ),
                )
    x = torch.randn(64, 768, device=there, dtype=torch.bfloat16)
    w = torch.randn(2304, 768, device=there, dtype=torch.bfloat16)
    told("microseconds of the host, a product", lambda: host_us(lambda: F.linear(x, w), device))
    told("microseconds of the host, an addition", lambda: host_us(lambda: x + x, device))
    return found


def host_us(work: Callable[[], object], device: str, rounds: int = 200) -> float:
    """Return microseconds of the host a call, the device not waited for."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    for _ in range(10):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    took = time.perf_counter() - started
    wait()
    return round(took / rounds * 1e6, 2)
