"""What the documents point at is there: files, modules, links, make's targets."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("models", "service", "tests", "benchmarks", "client", "docs", "deploy")
SPAN = re.compile(r"`([^`\n]+)`")
PATH = re.compile(rf"(?:{'|'.join(OURS)})/[\w./-]*[\w/]")
SHORT = re.compile(r"[\w-]+\.(?:py|c|h)")
DOTTED = re.compile(r"((?:models|service|benchmarks|tests)\.\w+)[\w.]*(?:\(.*\))?")
MODULE = re.compile(r"python3? -m ((?:models|service|tests|benchmarks)[\w.]*)")
TARGET = re.compile(r"^(?: {4}|.*`)?make ([a-z-]+)", re.MULTILINE)
ADDED = re.compile(r"New file `[^`]+`:|^```diff\n.*?^```", re.MULTILINE | re.DOTALL)  # by a worked example
IN_CODE = re.compile(r"\b(?:models|service|tests|benchmarks)/[\w/]+\.(?:py|c|h)\b")
LINK = re.compile(r"\]\(([^()\s]+)\)")

# Classes of one name: what is the same thing on two sides, and what is still to be told apart.
SAME_THING = {
    "Linear",
    "Norm",
    "Native",
    "Embedding",
    "Answer",
    "Device",
}  # in C, over HTTP, in another process
TO_BE_TOLD_APART = {"Batch", "Block", "Plan", "Rule"}


def documents(root: Path) -> list[Path]:
    """Return every page of prose; the changelog speaks of what was."""
    pages = [path for path in root.glob("*.md") if path.name != "CHANGELOG.md"]
    return sorted([*pages, *(root / "docs").rglob("*.md"), *(root / "client").rglob("*.md")])


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made where the page is shown."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(root: Path, span: str, names: set[str]) -> bool:
    """Whether what stands between backticks, if it is a path, a file's name or a dotted name, is there."""
    if PATH.fullmatch(span):
        return (root / span).exists()
    if dotted := DOTTED.fullmatch(span):
        return is_module(root, dotted[1])
    return not SHORT.fullmatch(span) or span in names


def is_module(root: Path, name: str) -> bool:
    """Whether a dotted name is a module or a package."""
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a link is to another site, or to a file and a heading that are there."""
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return ":" in path or (target.exists() and (not anchor or anchor in anchors(target)))


def missing(root: Path, page: Path) -> Iterator[str]:
    """Yield what a page names though it is not there."""
    text = ADDED.sub("", page.read_text())
    names = {path.name for tree in OURS for path in (root / tree).rglob("*.*")}
    targets = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE)
    yield from (span for span in SPAN.findall(text) if not is_there(root, span, names))
    yield from (f"python -m {name}" for name in MODULE.findall(text) if not is_module(root, name))
    yield from (f"make {name}" for name in TARGET.findall(text) if name not in targets)
    yield from (link for link in LINK.findall(text) if not leads_somewhere(page, link))


def undefined(root: Path, page: Path) -> Iterator[str]:
    """Yield each word of a glossary that is not defined where its row says, or is there twice."""
    seen = set()
    for line in page.read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| word "):
            continue
        word, _, where, *_ = (cell.strip() for cell in line.strip("|").split(" | "))
        spans = SPAN.findall(where)
        code = "\n".join((root / span).read_text() for span in spans if "/" in span)
        for name in (span for span in spans if "/" not in span):
            if not re.search(rf"^ *(?:(?:class|def|async def) {name}\b|{name}\b.*[:=])", code, re.MULTILINE):
                yield f"{word}: {name}"
        if word in seen:
            yield f"{word}: twice"
        seen.add(word)


def classes(root: Path) -> Counter[str]:
    """Return how many classes of the server there are of each name."""
    files = [file for tree in ("models", "service") for file in (root / tree).rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return Counter(node.name for node in nodes if isinstance(node, ast.ClassDef) and node.name[0] != "_")


def test_comments_and_docstrings_name_only_files_that_are_there() -> None:
    code = [file for tree in ("models", "service") for file in (ROOT / tree).rglob("*.[pch]*")]
    files = [file for file in code if file.suffix in (".py", ".c", ".h")]
    named = {(str(file), path) for file in files for path in IN_CODE.findall(file.read_text())}
    assert len(named) > 10
    assert {(file, path) for file, path in named if not (ROOT / path).is_file()} == set()


@pytest.mark.parametrize("page", documents(ROOT), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_what_is_there(page: Path) -> None:
    assert list(missing(ROOT, page)) == []


def test_every_word_of_the_glossary_is_defined_where_it_says() -> None:
    assert list(undefined(ROOT, ROOT / "docs" / "glossary.md")) == []


def test_no_two_classes_have_one_name() -> None:
    twice = {name for name, count in classes(ROOT).items() if count > 1}
    assert twice <= SAME_THING | TO_BE_TOLD_APART


def test_a_word_that_is_defined_elsewhere_or_twice_is_missed(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "job.py").write_text("class Job:\n    cost: int\n\ndef plan() -> Group: ...\n")
    page = tmp_path / "glossary.md"
    page.write_text(
        "| word | is | in the code | not |\n|---|---|---|---|\n"
        "| job | one | `Job`, `models/job.py` | |\n| cost | of it | `cost` of `Job`, `models/job.py` | |\n"
        "| plan | who | `plan`, `models/job.py` | |\n| group | some | `Group`, `models/job.py` | |\n"
        "| job | again | `models/job.py` | |\n"
    )
    assert list(undefined(tmp_path, page)) == ["group: Group", "job: twice"]
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "job.py").write_text("class Job: ...\n\nclass Ticket: ...\n")
    assert classes(tmp_path) == {"Job": 2, "Ticket": 1}


def test_what_is_not_there_is_missed(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("serve: models\n\ttrue\n")
    (tmp_path / "models" / "training").mkdir(parents=True)
    (tmp_path / "models" / "training" / "demo.py").touch()
    page = tmp_path / "page.md"
    page.write_text(
        "# One page\n`models/training/demo.py` `demo.py` `models.training.demo` [a](#one-page) [b](page.md)\n"
        "    python -m models.training.demo repository\n    make serve\n"
    )
    assert list(missing(tmp_path, page)) == []
    page.write_text(
        "# One page\n`models/demo.py` `gone.py` `models.demo` `make tea` [a](#two-pages) [b](gone.md)\n"
        "    python -m models.demo repository\n"
    )
    assert list(missing(tmp_path, page)) == [
        "models/demo.py",
        "gone.py",
        "models.demo",
        "python -m models.demo",
        "make tea",
        "#two-pages",
        "gone.md",
    ]
