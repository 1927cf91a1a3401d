import pytest

from service.interpreter import WAITING, wait_briefly


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
