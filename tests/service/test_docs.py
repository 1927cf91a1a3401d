"""The docs are complete: what a caller or an operator can meet is written down."""

import json
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from models.mechanism import AttentionSpec, PositionSpec, ProjectionSpec
from models.pooling_spec import PoolingSpec
from models.runtime import TorchRuntime
from models.spec import EmbeddingSpec, FeedForwardSpec, ModelSpec, NormSpec
from service import errors
from service.app import create_app, service_of
from service.cli import cli
from service.http.errors import STATUS
from service.http.schemas import AttendInput, AttendRequest, AttentionInput, AttentionRequest
from service.http.texts import inputs as embedded
from service.settings import Settings
from service.wire import counts, json_format, json_strings
from tests.fakes import FakeRuntime

DOCS = Path(__file__).parents[2] / "docs"
README = DOCS.parent / "README.md"
CONTRACT_CODES = set(STATUS) | {error.code for error in vars(errors).values() if hasattr(error, "code")}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings(), FakeRuntime())


def rows(page: str) -> list[list[str]]:
    lines = (DOCS / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


def test_every_setting_is_documented_once_and_no_other() -> None:
    documented = [row[0].strip("`") for row in rows("settings.md") if row[0].startswith("`")]
    assert documented == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_documented_default_and_bounds_are_the_settings_own(name: str) -> None:
    field = Settings.model_fields[name]
    (row,) = (row for row in rows("settings.md") if row[0] == f"`{name.upper()}`")
    if field.annotation is int:
        assert number(row[1]) == field.default
        least, most = (
            next(getattr(m, key) for m in field.metadata if hasattr(m, key)) for key in ("ge", "le")
        )
        assert [number(part) for part in row[2].split(" to ")] == [least, most]
    elif isinstance(field.default, str):
        assert row[1] == f"`{field.default}`"


def number(text: str) -> int:
    """Read 8000, 10,000, 64 MiB or 2²⁷."""
    if power := re.fullmatch(r"2([⁰¹²³⁴-⁹]+)", text):
        return int(2 ** int(power[1].translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))))
    amount, _, unit = text.replace(",", "").partition(" ")
    return int(amount) * {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]


def test_every_route_is_documented_and_no_other(app: FastAPI) -> None:
    served = {
        f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods
    }
    pages = {"GET /", "GET /web/{name}", "GET /web/views/{name}", "GET /docs", "GET /openapi.json"}
    documented = set(re.findall(r"`((?:GET|POST) /[^`]*)`", (DOCS / "api.md").read_text()))
    assert documented == served | pages


def test_every_error_code_is_documented_with_its_status() -> None:
    documented = {
        code: int(row[0])
        for row in rows("api.md")
        if row[0].isdigit()
        for code in re.findall(r"`(\w+)`", row[1])
    }
    assert documented == STATUS
    assert set(documented) == CONTRACT_CODES


def test_every_metric_is_documented_with_its_kind(app: FastAPI) -> None:
    families = text_string_to_metric_families(service_of(app).metrics.page().decode())
    served = {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for family in families
    }
    documented = {
        row[0].strip("`").partition("{")[0]: row[1] for row in rows("metrics.md") if row[0] != "metric"
    }
    assert documented == served


SPECS = (
    ModelSpec,
    AttentionSpec,
    ProjectionSpec,
    PositionSpec,
    NormSpec,
    FeedForwardSpec,
    EmbeddingSpec,
    PoolingSpec,
)


@pytest.mark.parametrize("spec", SPECS)
def test_every_field_and_choice_of_a_specification_is_documented(spec: type) -> None:
    page = (DOCS / "layers.md").read_text()
    for name, hint in get_type_hints(spec).items():
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        for word in (name, *choices):
            assert f"`{word}`" in page, word


def test_the_model_folder_that_the_docs_write_is_served(tmp_path: Path, monkeypatch: Any) -> None:
    page = (DOCS / "layers.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (config,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert ModelSpec.from_config(json.loads(config)).attention.causal
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "layers.md", "exec"), {})
    runtime = TorchRuntime(tmp_path / "repository", models=("mine",), device="cpu", dtype="float32")
    assert runtime.card("mine").heads == 4


def test_every_count_that_bounds_a_request_is_in_the_docs() -> None:
    page = (DOCS / "attend.md").read_text()
    few = (counts.MOST_INPUTS, embedded.MOST_INPUTS, counts.MOST_SPANS)
    most = (json_format.DEEPEST, json_format.MOST_FIELDS, json_format.MOST_VALUES, json_strings.MOST_PARSED)
    assert [count for count in (*few, *most) if f" {count:,} " not in " ".join(page.split())] == []


def test_every_command_is_in_the_readme_or_the_docs() -> None:
    pages = [README, *DOCS.glob("*.md")]
    said = "\n".join(page.read_text() for page in pages)
    for command in get_command(cli).commands:  # type: ignore[attr-defined]
        assert re.search(rf"`?heed {command}\b", said), command


def test_every_command_and_setting_that_a_page_names_is_one() -> None:
    others = {"SERVICE_HOST", "MODEL_SERVICE_HOST", "MODEL_PORT"}  # Kubernetes', which are none of ours
    settings = {name.upper() for name in Settings.model_fields} | others
    for page in [README, *DOCS.rglob("*.md")]:
        text = page.read_text()
        commands = re.findall(r"(?:^(?: {4})?|`)heed ([a-z]+)", text, re.MULTILINE)
        assert set(commands) <= set(get_command(cli).commands), page  # type: ignore[attr-defined]
        assert set(re.findall(r"\bHEED_([A-Z_]*[A-Z])\b", text)) <= settings, page


def test_every_option_of_the_main_job_is_documented() -> None:
    page = (DOCS / "attend.md").read_text()
    for schema in (AttendRequest, AttentionRequest, AttendInput, AttentionInput):
        for name in schema.model_fields:
            assert f"`{name}`" in page, name


def test_nothing_tells_people_to_install_the_stranger_called_heed() -> None:
    root = DOCS.parent
    pages = [
        README,
        root / "Dockerfile",
        root / "Makefile",
        *DOCS.glob("*.md"),
        *(root / "client").rglob("*.md"),
    ]
    code = [file for room in ("models", "service", "client") for file in (root / room).rglob("*.py")]
    for file in [*pages, *code]:
        assert not re.search(
            r"(?<!un)install [^\n]*\bheed(\[|['\"`\s.]*$)", file.read_text(), re.MULTILINE
        ), file
    assert 'name = "heed-server"' in (root / "pyproject.toml").read_text()
