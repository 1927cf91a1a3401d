"""A load that does not come back is given up, and nothing but the next load ever waits for one."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models import runtime as runtime_module
from models.errors import SpecError, UnknownModel
from models.folders.loads import MOST_LEFT, Loads
from models.runtime import TorchRuntime
from tests.models.test_reload import write


class Held:
    """Loads of models called `slow…` that begin, and end when they are let."""

    def __init__(self, build: Any) -> None:
        self._build = build
        self.begun, self.may_end, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, name: str, *arguments: object, **options: object) -> object:
        if name.startswith("slow"):
            self.begun.set()
            assert self.may_end.wait(60)
        made = self._build(name, *arguments, **options)
        if name.startswith("slow"):
            self.ended.set()
        return made


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(runtime_module.build)
    monkeypatch.setattr(runtime_module, "build", held)
    yield held
    held.may_end.set()


def serve(repository: Path, *, seconds: float) -> TorchRuntime:
    return TorchRuntime(repository, models=("good",), device="cpu", dtype="float32", load_seconds=seconds)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("good", "slow", "other"):
        write(tmp_path / name, 0)
    return tmp_path


def test_load_over_its_limit_is_given_up_with_a_reason_and_dropped(held: Held, repository: Path) -> None:
    runtime = serve(repository, seconds=5)
    runtime._loads = Loads(0.05)
    with pytest.raises(SpecError, match=r"slow was not loaded within 0.05 s.*LOAD_SECONDS") as told:
        runtime.load("slow")
    rows = {row["name"]: (row["state"], row["reason"]) for row in runtime.index()}
    assert rows["slow"] == ("UNAVAILABLE", str(told.value))
    assert rows["good"] == ("READY", "")
    runtime._loads = Loads(60)
    assert runtime.load("other").name == "other"
    held.may_end.set()
    assert held.ended.wait(60)
    with pytest.raises(UnknownModel):
        runtime.card("slow")


def test_model_that_is_served_goes_on_when_its_next_load_is_given_up(held: Held, repository: Path) -> None:
    held.may_end.set()
    runtime = serve(repository, seconds=60)
    before = runtime.load("slow")
    held.may_end.clear()
    runtime._loads = Loads(0.05)
    with pytest.raises(SpecError, match="not loaded within"):
        runtime.load("slow")
    assert runtime.card("slow") is before


def test_index_and_unload_do_not_wait_for_a_load(held: Held, repository: Path) -> None:
    runtime = serve(repository, seconds=60)
    load = threading.Thread(target=runtime.load, args=("slow",))
    load.start()
    assert held.begun.wait(60)
    runtime.unload("good")
    assert {row["name"]: row["reason"] for row in runtime.index()} == {
        "good": "unloaded",
        "other": "",
        "slow": "",
    }
    held.may_end.set()
    load.join(60)
    assert runtime.card("slow").name == "slow"


def test_model_that_is_unloaded_while_it_is_loaded_again_stays_unloaded(held: Held, repository: Path) -> None:
    held.may_end.set()
    runtime = serve(repository, seconds=60)
    runtime.load("slow")
    held.may_end.clear()
    held.begun.clear()
    told: list[SpecError] = []

    def load() -> None:
        with pytest.raises(SpecError, match="unloaded while") as error:
            runtime.load("slow")
        told.append(error.value)

    again = threading.Thread(target=load)
    again.start()
    assert held.begun.wait(60)
    runtime.unload("slow")
    held.may_end.set()
    again.join(60)
    assert len(told) == 1
    with pytest.raises(UnknownModel):
        runtime.card("slow")


def test_load_that_waits_too_long_for_others_says_so() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert may_end.wait(60)

    loads = Loads(60)
    first = threading.Thread(target=loads.run, args=("first", hold))
    first.start()
    assert begun.wait(60)
    loads.seconds = 0.01
    with pytest.raises(SpecError, match="other loads have taken"):
        loads.run("second", lambda: None)
    loads.seconds = 60
    may_end.set()
    first.join(60)
    assert loads.run("third", lambda: "done") == "done"


def test_no_more_than_a_few_loads_are_left_behind() -> None:
    may_end = threading.Event()
    loads = Loads(0.001)
    for _ in range(MOST_LEFT):
        with pytest.raises(SpecError, match="within"):
            loads.run("stuck", lambda: may_end.wait(60))
    left = [thread for thread in threading.enumerate() if thread.name == "heed-load"]
    with pytest.raises(SpecError, match="have not come back"):
        loads.run("another", lambda: None)
    may_end.set()
    for thread in left:
        thread.join(60)
    loads.seconds = 60
    assert loads.run("another", lambda: "done") == "done"
