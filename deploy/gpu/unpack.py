"""Unpack wheels into a folder that PYTHONPATH names; nothing is installed.

unpack.py WHEELS FOLDER

What this Python has as new or newer stays as it is; wheels for another Python are passed over and told of.
"""

import importlib.metadata
import re
import sys
import zipfile
from pathlib import Path

OURS = {f"cp{sys.version_info.major}{sys.version_info.minor}", f"py{sys.version_info.major}", "py3"}


def main() -> int:
    """Unpack every wheel that is of use; return how many could not be."""
    wheels, folder = Path(sys.argv[1]), Path(sys.argv[2])
    bad = 0
    for wheel in sorted(wheels.glob("*.whl")):
        name, version, python, abi, _ = wheel.name.removesuffix(".whl").split("-")[-5:]
        if not (OURS & {*python.split(".")} or abi == "abi3"):
            print(f"{wheel.name}: for another Python")
            continue
        if (there := _installed(name)) is not None and _numbers(there) >= _numbers(version):
            print(f"{name}: {there} is here")
            continue
        try:
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
            print(f"{name}: {version}")
        except (OSError, zipfile.BadZipFile) as error:
            bad += 1
            print(f"{wheel.name}: {error}")
    return bad


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


if __name__ == "__main__":
    sys.exit(main())
