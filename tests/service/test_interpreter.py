import pytest

from service.interpreter import WAITING, tokenize_alone, wait_briefly


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
