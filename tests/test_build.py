"""What builds the compiled parts knows all of their sources: pyproject.toml, and the Makefile's stamps."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = {
    str(path.relative_to(ROOT)) for room in ("models", "service") for path in (ROOT / room).rglob("*.[ch]")
}


def test_every_c_file_is_compiled_and_every_header_waited_for() -> None:
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    assert {file for one in modules for file in (*one["sources"], *one.get("depends", ()))} == SOURCES


def test_make_installs_anew_when_any_of_them_is_newer() -> None:
    (patterns,) = re.findall(r"\$\(wildcard ([^)]*)\)", (ROOT / "Makefile").read_text())
    watched = {str(path.relative_to(ROOT)) for pattern in patterns.split() for path in ROOT.glob(pattern)}
    assert watched == SOURCES
