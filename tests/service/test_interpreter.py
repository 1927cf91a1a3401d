import os

import pytest

from models.compiled.instructions import VARIABLE
from service.interpreter import WAITING, compute_with, tokenize_alone, wait_briefly


def test_threads_are_told_to_wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr("service.interpreter.os.environ", environment)
    wait_briefly()
    assert environment == WAITING


@pytest.mark.parametrize("name", WAITING)
def test_what_the_operator_sets_stays_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {name: "theirs"}
    monkeypatch.setattr("service.interpreter.os.environ", environment)
    wait_briefly()
    assert environment == {name: "theirs"}


@pytest.mark.parametrize(("said", "kept"), [({}, "false"), ({"TOKENIZERS_PARALLELISM": "true"}, "true")])
def test_texts_are_tokenized_on_the_thread_that_asks(
    said: dict[str, str], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(said)
    monkeypatch.setattr("service.interpreter.os.environ", environment)
    tokenize_alone()
    assert environment == {"TOKENIZERS_PARALLELISM": kept}


def test_instructions_reach_what_is_loaded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "auto")
    compute_with("none")
    assert os.environ[VARIABLE] == "none"
