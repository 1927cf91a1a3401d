"""The container files agree with each other and with the tree; hadolint reads them in `make check`."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = [
    source
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    for source in sources.split()
]


@pytest.fixture
def compose() -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return whole


@pytest.mark.parametrize("source", COPIED)
def test_what_is_copied_is_there_and_in_the_build_context(source: str) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert f"!{source.removeprefix('./')}" in lines
    assert (ROOT / source).exists()


def test_everything_that_is_installed_is_copied() -> None:
    assert {"pyproject.toml", "constraints.txt", "service", "models", "client"} <= set(COPIED)
    for install in re.findall(r"pip install (.*?)(?: \\|;|$)", DOCKERFILE, re.MULTILINE):
        assert "--constraint constraints.txt" in install
        assert install.endswith(("torch", "./client"))  # the commands need the client
        if install.endswith("./client"):  # settings alone decide what an image does
            assert {"grpc", "otel"} <= set(re.split(r"[\[\],]", install))


def test_image_runs_as_nobody_in_particular_and_says_how_it_is() -> None:
    final = DOCKERFILE[DOCKERFILE.index("AS base") :]
    assert "USER 10001:10001" in final
    assert "HEALTHCHECK" in final
    assert "VOLUME /models" in final
    assert "USER root" not in final


def test_compose_builds_targets_that_exist_and_sets_what_heed_knows(compose: dict[str, Any]) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(built(compose)) == {"heed", "gpu"}
    for service in built(compose).values():
        assert service["build"]["target"] in stages
        assert service["read_only"] is True
        assert set(service["volumes"][0].split(":")[:1]) <= set(compose["volumes"])
        known = {f"HEED_{name.upper()}" for name in Settings.model_fields}
        assert {name for name in service["environment"] if not name.startswith("OTEL_")} <= known
    assert "profiles" not in compose["services"]["heed"]
    assert compose["services"]["gpu"]["profiles"] == ["gpu"]


def built(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the services that are ours; the others look at them (tests/deploy/test_observe.py)."""
    return {name: service for name, service in compose["services"].items() if "build" in service}


def test_container_outlives_the_drain(compose: dict[str, Any]) -> None:
    for service in built(compose).values():
        assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds


def test_bases_are_pinned_by_what_the_registry_has_and_pinned_again(tmp_path: Path) -> None:
    for name in ("Dockerfile", "deploy/pin-bases.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    program = tmp_path / "bin" / "skopeo"  # stands in for the registry: what it has after each tag
    program.parent.mkdir()

    def pin(content: str, *words: str) -> int:
        program.write_text(f'#!/bin/sh\nprintf "{content} of %s" "$3"\n')
        program.chmod(0o755)
        path = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
        command = [tmp_path / "deploy" / "pin-bases.sh", *words]
        return subprocess.run(command, env=path, capture_output=True, check=False).returncode

    def pinned(content: str) -> str:
        text = DOCKERFILE
        for name in ("PYTHON=python:3.11", "PYTHON_SLIM=python:3.11-slim"):
            manifest = f"{content} of docker://docker.io/library/{name.partition('=')[2]}"
            digest = hashlib.sha256(manifest.encode()).hexdigest()
            text = re.sub(rf"^ARG {name}(@\S+)?$", f"ARG {name}@sha256:{digest}", text, flags=re.MULTILINE)
        return text

    assert pin("old", "--check") == 1
    assert (tmp_path / "Dockerfile").read_text() == DOCKERFILE
    for content in ("old", "new"):
        assert pin(content) == 0
        assert (tmp_path / "Dockerfile").read_text() == pinned(content) != DOCKERFILE
    assert (pin("new", "--check"), pin("newer", "--check")) == (0, 1)


def test_every_build_argument_is_one_that_the_script_gives_or_has_a_value() -> None:
    script = (ROOT / "deploy" / "try-image.sh").read_text()
    empty = re.findall(r'^ARG (\w+)=""$', DOCKERFILE, re.MULTILINE)
    given = set(re.findall(r"--build-arg (\w+)=", script))
    assert given == set(empty) - {"TORCH_SOURCE"}
    for name in given:
        assert f'"${{{name}}}"' in DOCKERFILE[DOCKERFILE.index("LABEL") :]


def test_healthcheck_runs_what_the_package_has() -> None:
    (command,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.*)$", DOCKERFILE, re.MULTILINE)
    words = json.loads(command)
    assert words[:3] == ["python", "-I", "-m"]
    assert importlib.util.find_spec(words[3]) is not None
