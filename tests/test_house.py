"""The tree keeps to its limits: rooms, files, functions, and a contract on imports for every package."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {name: ROOT / name for name in ("models", "service")}
PACKAGES["heed_client"] = ROOT / "client" / "heed_client"
SOURCE = (".py", ".c", ".h")

MOST_ROOMS_OF_MODELS = 11
MOST_FILES_AT_ROOT_OF_MODELS = 16
MOST_FILES_OF_ROOM = 16
MOST_LINES_OF_FILE = 300
MOST_LINES_OF_FUNCTION = 60


def rooms() -> dict[str, Path]:
    """Return the folder of every package, by its dotted name."""
    found = {}
    for name, top in PACKAGES.items():
        for init in top.rglob("__init__.py"):
            found[".".join((name, *init.parent.relative_to(top).parts))] = init.parent
    return found


def files(folder: Path) -> list[Path]:
    """Return the source files in a room."""
    return [file for file in folder.iterdir() if file.suffix in SOURCE]


def sources() -> Iterator[Path]:
    """Yield every source file that is held to the limits; a test is as long as what it tests has cases."""
    for top in (*PACKAGES.values(), ROOT / "benchmarks"):
        yield from (file for file in top.rglob("*") if file.suffix in SOURCE)


def contracts() -> list[dict[str, object]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return list(settings["contracts"])


def modules_under(contract: dict[str, object]) -> set[str]:
    """Return the modules that a contract holds to something."""
    found: set[str] = set()
    for layer in contract.get("layers", ()):  # type: ignore[attr-defined]
        found |= {name.strip() for name in layer.replace(":", "|").split("|")}
    return found | set(contract.get("source_modules", ()))  # type: ignore[call-overload]


def test_models_has_few_rooms_and_few_files_at_its_root() -> None:
    inside = {name for name in rooms() if name.startswith("models.") and name.count(".") == 1}
    assert len(inside) <= MOST_ROOMS_OF_MODELS
    assert len(files(PACKAGES["models"])) <= MOST_FILES_AT_ROOT_OF_MODELS


def test_no_room_has_many_files() -> None:
    folders = [folder for top in PACKAGES.values() for folder in (top, *top.rglob("*")) if folder.is_dir()]
    counts = {str(folder.relative_to(ROOT)): len(files(folder)) for folder in folders}
    assert counts["models/compiled/kinds"]  # C alone is a room too
    assert {name: count for name, count in counts.items() if count > MOST_FILES_OF_ROOM} == {}


def test_no_file_is_long() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in sources()}
    assert {name for name, length in lengths.items() if length > MOST_LINES_OF_FILE} == set()


def test_no_function_is_long() -> None:
    long = set()
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())) if file.suffix == ".py" else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > MOST_LINES_OF_FUNCTION:
                    long.add(f"{file.relative_to(ROOT)} {node.name}")
    assert long == set()


def test_every_package_has_a_contract_on_what_it_imports() -> None:
    held = set().union(*(modules_under(contract) for contract in contracts()))
    assert set(rooms()) - held == set()


def test_circles_of_imports_are_forbidden_in_every_package() -> None:
    (acyclic,) = (contract for contract in contracts() if contract["type"] == "acyclic_siblings")
    assert set(acyclic["ancestors"]) == set(rooms())  # type: ignore[call-overload]


def test_public_names_are_those_without_an_underscore_and_are_listed_nowhere() -> None:
    files = [file for top in ("models", "service") for file in PACKAGES[top].rglob("*.py")]
    assert [str(file) for file in files if "__all__" in file.read_text()] == []
