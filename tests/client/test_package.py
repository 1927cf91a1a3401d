"""The package as its callers see it: typed, documented, and standing on httpx and numpy alone."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import heed_client

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "client" / "heed_client"


def test_callers_example_and_the_package_pass_mypy_strict(tmp_path):
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file="]
    files = [str(Path(__file__).parent / "example.py"), str(PACKAGE)]
    done = subprocess.run(
        [*command, f"--cache-dir={tmp_path}", *files],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_example_uses_everything_that_is_exported():
    written = ast.parse((Path(__file__).parent / "example.py").read_text())
    names = {node.id for node in ast.walk(written) if isinstance(node, ast.Name)}
    assert set(heed_client.__all__) <= names


@pytest.mark.parametrize("name", heed_client.__all__)
def test_everything_public_is_documented(name):
    thing = getattr(heed_client, name)
    assert inspect.getdoc(thing)
    for attribute, value in vars(thing).items():
        if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert inspect.getdoc(value), f"{name}.{attribute}"


def test_both_clients_offer_the_same():
    def offered(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")} - {"close", "aclose"}

    assert offered(heed_client.Client) == offered(heed_client.AsyncClient)
    for name in offered(heed_client.Client):
        both = [inspect.signature(getattr(c, name)) for c in (heed_client.Client, heed_client.AsyncClient)]
        assert both[0] == both[1], name


def test_package_needs_httpx_and_numpy_and_nothing_else():
    declared = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.match(r"[a-z0-9-]+", one).group() for one in declared} == {"httpx", "numpy"}
    imported: set[str] = set()
    for file in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"heed_client", "httpx", "numpy"}


def test_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    assert project["version"] == heed_client.__version__
    assert f"heed-client/{heed_client.__version__}" in (PACKAGE / "transport.py").read_text()


def test_readme_of_the_package_is_python_that_names_what_exists():
    readme = (ROOT / "client" / "README.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "heed_client":
                assert {alias.name for alias in node.names} <= set(heed_client.__all__)
