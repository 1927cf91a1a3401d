"""Unpack wheels into a folder that PYTHONPATH names: nothing is installed, and what is there already stays.

unpack.py WHEELS FOLDER
"""

import sys
import zipfile
from pathlib import Path


def main() -> int:
    """Unpack every wheel; return how many could not be."""
    wheels, folder = Path(sys.argv[1]), Path(sys.argv[2])
    bad = 0
    for wheel in sorted(wheels.glob("*.whl")):
        try:
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
            print(wheel.name)
        except (OSError, zipfile.BadZipFile) as error:
            bad += 1
            print(f"{wheel.name}: {error}")
    return bad


if __name__ == "__main__":
    sys.exit(main())
