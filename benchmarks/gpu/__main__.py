"""On a GPU, the runtime alone, no HTTP: its kernels, a layer, and whole models, against bare torch.

python -m benchmarks.gpu [look layer models] [--quick] [--device cuda] [--dtypes bfloat16 float32]

Without names all three. On a processor, `--device cpu`, shapes are cut down: only that it runs is seen.
"""

import argparse
import sys

import torch

from benchmarks.gpu import layer, look, whole
from benchmarks.report import save

PARTS = ("look", "layer", "models")


def main() -> int:
    """Measure, print and keep; return 1 without the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=" ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--smallest", action="store_true", help="of the layer the least, to see that it runs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", choices=layer.DTYPES, default=layer.DTYPES)
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))} is no part; there are {', '.join(PARTS)}")
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no CUDA device")
        return 1
    device, quick = chosen.device, chosen.quick
    for part in chosen.parts or PARTS:
        print(f"{part}:", flush=True)
        if part == "look":
            found = look.run(device=device)
        elif part == "layer":
            found = layer.run(device=device, quick=quick, dtypes=chosen.dtypes, smallest=chosen.smallest)
        else:
            found = whole.run(device=device, quick=quick)
        print(f"kept in {save(f'gpu-{part}', found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
