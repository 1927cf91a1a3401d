"""The worked examples of CONTRIBUTING.md work: applied to a copy of the tree, their own tests pass."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
COPIED = (
    "client",
    "docs",
    "models",
    "service",
    "tests",
    "Dockerfile",
    "Makefile",
    "README.md",
    "pyproject.toml",
)
EXAMPLE = re.compile(
    r"New file `(?P<file>[^`]+)`:\n\n```python\n(?P<text>.*?)^```|^```diff\n(?P<diff>.*?)^```", re.M | re.S
)
COMMAND = re.compile(r"^    python -m pytest (.*)$", re.MULTILINE)


def examples(page: str) -> str:
    """Return the part of the page that has the examples."""
    return page.partition("## Worked examples")[2]


def apply(page: str, root: Path) -> None:
    """Make every change of a page to a tree; AssertionError names the file where one has no place."""
    for found in EXAMPLE.finditer(page):
        if found["file"]:
            (root / found["file"]).write_text(found["text"])
            continue
        for path, old, new in hunks(found["diff"]):
            text = (root / path).read_text()
            assert text.count(old) == 1, f"{path} has {text.count(old)} times\n{old}"
            (root / path).write_text(text.replace(old, new))


def hunks(diff: str) -> Iterator[tuple[str, str, str]]:
    """Yield of each change its file, the lines that are there, and those that take their place."""
    for change in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        path, *parts = re.split(r"^@@\n", change, flags=re.MULTILINE)
        for part in parts:
            lines = part.splitlines(keepends=True)
            old = "".join(line[1:] or line for line in lines if line[0] != "+")
            yield path.strip(), old, "".join(line[1:] or line for line in lines if line[0] != "-")


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with all examples in it."""
    root = tmp_path_factory.mktemp("contributed")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, root / name)
    apply(examples(PAGE.read_text()), root)
    return root


def test_the_tests_of_all_examples_pass(applied: Path) -> None:
    tests = dict.fromkeys(
        name for found in COMMAND.findall(examples(PAGE.read_text())) for name in found.split()
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_architecture.py", *tests],
        cwd=applied,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:]
