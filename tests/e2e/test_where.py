"""Where the server is started and what it is pointed at: other people's folders, mounts and environments."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from models.spec import ModelSpec
from tests.models.test_reload import write

HEED = Path(sys.executable).with_name("heed")
START_SECONDS = 120
Run = Callable[..., "Running"]


@dataclass
class Running:
    """The command as a user types it, on a port of its own."""

    process: subprocess.Popen[str]
    url: str
    errors: Path

    @property
    def said(self) -> str:
        return self.errors.read_text()

    def names(self) -> list[str]:
        return [model["name"] for model in httpx.get(f"{self.url}/v1/models").json()["models"]]

    def attend(self, name: str) -> int:
        body = {"inputs": [{"token_ids": [1, 2]}]}
        return httpx.post(f"{self.url}/v1/models/{name}/attend", json=body, timeout=60).status_code

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to start in that has packages called as ours are, each of which fails when it is imported."""
    folder = tmp_path / "here"
    for name in ("models", "service", "heed_client", "torch", "numpy", "pip", "uvicorn"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('a stranger: {name}')")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Iterator[Run]:
    started: list[Running] = []

    def run(*options: str, environ: Mapping[str, str] | None = None) -> Running:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("HEED_", "PYTHON"))
        }
        errors = tmp_path / f"{len(started)}.log"
        with errors.open("w") as log:
            process = subprocess.Popen(
                [str(HEED), "serve", "--port", "0", "--drain-seconds", "1", *options],
                cwd=folder,
                env={**clean, "OMP_NUM_THREADS": "1", **(environ or {})},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        started.append(running := Running(process, "", errors))
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], START_SECONDS)[0], running.said
        said = process.stdout.readline()  # it listens, or has ended
        running.url = said.rpartition(" on ")[2].strip()
        return running

    yield run
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(timeout=30)
        assert running.process.stdout is not None
        running.process.stdout.close()


def refused(running: Running) -> str:
    assert running.process.wait(timeout=START_SECONDS) == 2, running.said
    return running.said


@pytest.mark.parametrize("workers", ["1", "2"])
def test_server_starts_in_a_folder_with_packages_called_as_its_own(
    run: Run, folder: Path, workers: str
) -> None:
    write(folder / "repository" / "mine", 0)
    running = run("--http-workers", workers)
    assert running.names() == ["mine"], running.said
    assert running.attend("mine") == 200
    assert running.stop() == 0


@pytest.mark.parametrize("words", [["--version"], ["models"], ["import", "nowhere"], ["bench", "x"]])
def test_other_commands_run_there_too(folder: Path, words: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HEED_", "PYTHON"))}
    environ["HEEDCTL_URL"] = "http://127.0.0.1:9"
    done = subprocess.run(
        [str(HEED), *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == (0 if words == ["--version"] else 1)
    assert "a stranger" not in done.stderr
    assert "Traceback" not in done.stderr


def test_one_folder_is_served_under_a_name_with_neither_repository_nor_setting(
    run: Run, tmp_path: Path
) -> None:
    for at in ("mnt/a:b", "mnt/versions/1", "mnt/versions/12"):
        write(tmp_path / at, 0)
    (tmp_path / "link").symlink_to(tmp_path / "mnt" / "versions")
    running = run(
        *("--model", f"one={tmp_path}/mnt/a:b:bfloat16", "--model", f"two={tmp_path}/link", "--admin"),
        *("--http-workers", "2"),
        environ={"HEED_PORT": "tcp://10.0.0.1:80", "HEED_MODEL_SERVICE_HOST": "10.0.0.1"},
    )
    assert running.names() == ["one", "two"], running.said
    pages = {name: httpx.get(f"{running.url}/v1/models/{name}").json() for name in ("one", "two")}
    assert (pages["one"]["dtype"], pages["two"]["dtype"]) == ("bfloat16", "float32")
    assert (pages["one"]["version"], pages["two"]["version"]) == ("1", "12")
    assert running.said.count("enableServiceLinks") == 1

    def post(action: str) -> int:
        return httpx.post(f"{running.url}/v2/repository/models/one/{action}", timeout=60).status_code

    assert post("unload") == 200
    rows = httpx.post(f"{running.url}/v2/repository/index").json()
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [
        ("one", "1", "UNAVAILABLE"),
        ("two", "1", "UNAVAILABLE"),
        ("two", "12", "READY"),
    ]
    assert httpx.get(f"{running.url}/health").status_code == 200
    assert post("load") == 200
    assert running.attend("one") == 200
    assert running.stop() == 0


def test_a_named_folder_stands_beside_a_repository_that_is_named(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    for at in ("repository/kept", "repository/both", "repository/left"):
        write(folder / at, 0)
    write(tmp_path / "mnt", 0, ModelSpec(d_model=4))
    running = run("--models", "kept", "--model", f"both={tmp_path}/mnt")
    assert running.names() == ["both", "kept"]
    assert httpx.get(f"{running.url}/v1/models/both").json()["d_model"] == 4


def test_a_repository_that_is_a_model_is_served(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "mine", 0)
    running = run("--model-repository", str(tmp_path / "mine"))
    assert running.names() == ["mine"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nothing_to_serve_is_refused_with_what_to_do(run: Run, folder: Path, workers: str) -> None:
    (folder / "repository" / "broken").mkdir(parents=True)
    said = refused(run("--http-workers", workers))
    assert "broken is not served: broken has no config.json" in said
    assert "nothing to serve in repository" in said
    assert "--model NAME=PATH" in said
    assert "--allow-empty" in said


def test_nothing_to_serve_is_permitted_where_it_is_said(run: Run) -> None:
    running = run("--allow-empty")  # without even a folder to be the repository
    assert running.names() == []
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_a_named_folder_that_cannot_be_loaded_is_refused_with_its_reason(run: Run, folder: Path) -> None:
    write(folder / "repository" / "good", 0)
    broken = write(folder / "repository" / "broken", 0)
    (broken / "config.json").write_text(json.dumps({"heed": 1, "d_model": "wide"}))
    said = refused(run("--models", "good", "--model", f"broken={broken}", "--allow-empty"))
    assert "model broken cannot be served: d_model is 'wide'" in said
    assert "Traceback" not in said


def test_a_default_model_that_is_not_served_is_refused_with_its_reason(run: Run, folder: Path) -> None:
    write(folder / "repository" / "good", 0)
    said = refused(run("--default-model", "other"))
    assert "DEFAULT_MODEL is other, which is not served; served: good." in said
    (folder / "repository" / "broken").mkdir()
    said = refused(run("--default-model", "broken"))
    assert "DEFAULT_MODEL is broken, which is not served: broken has no config.json and no " in said


def test_a_default_model_may_come_later_where_nothing_need_be_served(run: Run, folder: Path) -> None:
    write(folder / "repository" / "late", 0)
    (folder / "repository" / "late").rename(folder / "late")
    running = run("--default-model", "late", "--allow-empty", "--admin", "--model-repository", "repository")
    health = httpx.get(f"{running.url}/health")
    assert (health.status_code, health.json()["reason"]) == (503, "not served yet: late")
    reply = httpx.post(f"{running.url}/v1/embeddings", json={"input": "a"})
    assert reply.status_code == 404
    assert "DEFAULT_MODEL, late, is not served now" in reply.json()["error"]["message"]
    (folder / "late").rename(folder / "repository" / "late")
    assert httpx.post(f"{running.url}/v2/repository/models/late/load", timeout=60).status_code == 200
    assert httpx.get(f"{running.url}/health").status_code == 200
