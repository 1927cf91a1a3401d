"""Folders of strangers: the good ones beside them are served, they have their reason, nothing runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Start, Target
from tests.faults.running import Running
from tests.faults.strangers import CALM, HANGING, TOKENIZER_TEXTS, TOKENIZERS, canary, placed
from tests.faults.wire import attend, post

GOOD = ("aaa-good", "zzz-good")


def rows_of(server: Running) -> dict[str, dict[str, str]]:
    reply = server.ask(post("/v2/repository/index", b"{}"))
    assert reply.status == 200
    return {row["name"]: row for row in json.loads(reply.body)}


def answers(server: Running, model: str, text: str = "a b") -> int:
    return server.ask(attend({"inputs": [{"text": text}]}, path=f"/v1/models/{model}/attend"), 20).status


def unexplained(server: Running, names: list[str]) -> list[str]:
    """Strangers that are neither served nor listed with a reason."""
    rows = rows_of(server)
    return [
        name
        for name in names
        if name not in rows or (rows[name]["state"] != "READY" and not rows[name].get("reason"))
    ]


@pytest.fixture(scope="module")
def beside(
    start_once: Start, tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Iterator[tuple[Running, list[str], Path]]:
    at = tmp_path_factory.mktemp("strangers") / "repository"
    with placed(CALM, repository / "demo-attention", at) as names:
        yield start_once(repository=at, models=None, admin="true"), names, at


def test_good_models_beside_strangers_are_served(beside: tuple[Running, list[str], Path]) -> None:
    server, _, _ = beside
    assert [answers(server, name) for name in GOOD] == [200, 200]


def test_every_stranger_is_served_or_has_a_reason(beside: tuple[Running, list[str], Path]) -> None:
    server, names, _ = beside
    assert unexplained(server, names) == []


def test_nothing_in_a_strangers_folder_runs(beside: tuple[Running, list[str], Path]) -> None:
    server, names, at = beside
    assert len(names) >= 25
    assert not canary(at / "any").exists()
    assert server.alive


def test_strangers_that_would_hang_a_reader_are_their_own_trouble(
    start: Start, tmp_path: Path, repository: Path
) -> None:
    at = tmp_path / "repository"
    with placed(HANGING, repository / "demo-attention", at) as names:
        server = start(repository=at, models=None, admin="true")
        assert len(names) >= 6
        assert [answers(server, name) for name in GOOD] == [200, 200]
        assert unexplained(server, names) == []
        assert server.stop() == 0


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def hostile(
    start_once: Start,
    tmp_path_factory: pytest.TempPathFactory,
    repository: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Target]:
    at = tmp_path_factory.mktemp("hostile") / "repository"
    with placed(TOKENIZERS, repository / "demo-attention", at):
        yield Target(start_once, repository=at, models=None, http_workers=request.param)


@pytest.mark.parametrize("name", TOKENIZER_TEXTS)
def test_tokenizer_of_a_stranger_does_not_take_the_others_along(hostile: Target, name: str) -> None:
    server = hostile.server()
    hostile.hurt = True
    body = {"inputs": [{"text": TOKENIZER_TEXTS[name]}], "deadline_ms": 2000}
    reply = server.ask(attend(body, path=f"/v1/models/{name}/attend"), 10)
    assert reply.status in (404, 413, 422, 503, 504)
    assert json.loads(reply.body)["error"]["request_id"] == reply.id
    assert [answers(server, good) for good in GOOD * 4] == [200] * 8
    hostile.hurt = False


def test_server_of_hostile_tokenizers_ends_in_time(hostile: Target) -> None:
    assert hostile.server().stop(40) == 0
