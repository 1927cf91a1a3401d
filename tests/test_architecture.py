"""The map is the tree: docs/architecture.md and the docstrings of rooms name every source file, and no other.

A room is a package. Its `__init__.py` lists what is in it, a line each: `name` for name.py, `name.c`,
`name.h`, `name/` for a folder. On the page a name without a slash is of the room whose heading it stands
under; every other is a path from the root.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREES = ("models", "service", "client/heed_client")  # whose rooms list their files
PAGE = "docs/architecture.md"
ON_PAGE = ("models", "service")  # whose files the page names
SUFFIXES = {".py", ".c", ".h"}
LISTED = re.compile(r"^([\w.]+/?)(?:  +\S|$)", re.MULTILINE)
NAMED = re.compile(r"`([\w./-]+\.(?:py|c|h))`")
HEADING = re.compile(r"^#+ (?:.*?`([\w./]+)/`)?")
LONGEST_LINE = 119


def sources(folder: Path) -> set[Path]:
    """Return the source files of a tree, but for what only marks and describes a room."""
    return {path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.name != "__init__.py"}


def rooms(root: Path) -> list[Path]:
    """Return every package of the trees."""
    trees = (root / tree for tree in TREES)
    return sorted(init.parent for tree in trees for init in tree.rglob("__init__.py"))


def complaints_of_room(room: Path) -> list[str]:
    """Return what a room's docstring leaves out, has twice, or names though it is not there."""
    docstring = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    listed = Counter(LISTED.findall(docstring.partition("\n\n")[2]))
    here = {path for path in sources(room) if path.parent == room}
    names = {path.stem if path.suffix == ".py" else path.name for path in here}
    names |= {f"{path.name}/" for path in room.iterdir() if path.is_dir() and sources(path)}
    also = {f"{path.name}/" for path in room.iterdir() if path.is_dir()}  # a folder of something else
    return [
        *(f"{room.name}: {name} is not listed" for name in sorted(names - set(listed))),
        *(f"{room.name}: {name} is listed, and not there" for name in sorted(set(listed) - names - also)),
        *(f"{room.name}: {name} is listed {times} times" for name, times in listed.items() if times > 1),
    ]


def complaints_of_page(root: Path) -> list[str]:
    """Return which source files the page leaves out, and which it names though they are not there."""
    room, named = root, set()
    for line in (root / PAGE).read_text().splitlines():
        if heading := HEADING.match(line):
            room = root / (heading.group(1) or "")
        named |= {(root if "/" in name else room) / name for name in NAMED.findall(line)}
    there = {path for tree in ON_PAGE for path in sources(root / tree)}
    return [
        *(f"{path.relative_to(root)} is not named" for path in sorted(there - named)),
        *(
            f"{path.relative_to(root)} is named, and not there"
            for path in sorted(named)
            if not path.is_file()
        ),
    ]


@pytest.mark.parametrize("room", rooms(ROOT), ids=lambda room: str(room.relative_to(ROOT)))
def test_every_room_lists_the_files_that_are_in_it(room: Path) -> None:
    assert complaints_of_room(room) == []


def test_the_architecture_page_names_every_source_file_and_no_other() -> None:
    assert complaints_of_page(ROOT) == []


def test_lines_of_the_architecture_page_are_short() -> None:
    lines = (ROOT / PAGE).read_text().splitlines()
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree whose map is true: a room with two files in Python, one in C, and a room inside."""
    room, inner = tmp_path / "models" / "attention", tmp_path / "models" / "attention" / "masks"
    inner.mkdir(parents=True)
    (tmp_path / "service").mkdir()
    (tmp_path / "docs").mkdir()
    (room / "__init__.py").write_text(
        '"""Attention.\n\nblocks  rows\nkernel.c\n        products\nmasks/  who sees whom\ntopk    k\n"""\n'
    )
    (inner / "__init__.py").write_text('"""Masks.\n\nband  a diagonal\n"""\n')
    for path in (room / "blocks.py", room / "topk.py", room / "kernel.c", inner / "band.py"):
        path.touch()
    (tmp_path / PAGE).write_text(
        "# Page\n`models/attention/blocks.py`\n## The room `models/attention/`\n| `topk.py` | `kernel.c` |\n"
        "## More\n`models/attention/masks/band.py`\n"
    )
    return tmp_path


def test_a_true_map_is_believed(tree: Path) -> None:
    assert complaints_of_page(tree) == []
    assert [complaints_of_room(tree / "models" / room) for room in ("attention", "attention/masks")] == [
        [],
        [],
    ]


def test_a_file_that_nobody_names_is_missed(tree: Path) -> None:
    (tree / "models" / "attention" / "new.py").touch()
    (tree / "models" / "attention" / "fast.c").touch()
    assert complaints_of_room(tree / "models" / "attention") == [
        "attention: fast.c is not listed",
        "attention: new is not listed",
    ]
    assert complaints_of_page(tree) == [
        "models/attention/fast.c is not named",
        "models/attention/new.py is not named",
    ]


def test_a_file_that_is_gone_is_missed(tree: Path) -> None:
    (tree / "models" / "attention" / "topk.py").unlink()
    (tree / "models" / "attention" / "masks" / "band.py").unlink()
    assert complaints_of_room(tree / "models" / "attention") == ["attention: topk is listed, and not there"]
    assert complaints_of_room(tree / "models" / "attention" / "masks") == [
        "masks: band is listed, and not there"
    ]
    assert complaints_of_page(tree) == [
        "models/attention/masks/band.py is named, and not there",
        "models/attention/topk.py is named, and not there",
    ]


def test_a_short_name_is_of_the_room_it_stands_under(tree: Path) -> None:
    page = tree / PAGE
    page.write_text(page.read_text() + "`topk.py`\n")
    assert complaints_of_page(tree) == ["topk.py is named, and not there"]


def test_a_file_that_is_listed_twice_is_missed(tree: Path) -> None:
    (tree / "models" / "attention" / "masks" / "__init__.py").write_text(
        '"""Masks.\n\nband  a diagonal\nband  and again\n"""\n'
    )
    assert complaints_of_room(tree / "models" / "attention" / "masks") == ["masks: band is listed 2 times"]
