"""What Heed uses of the insides of other packages: all of it is looked at, and what is gone is told."""

import ast
import inspect
import tomllib
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service import cli
from service.http.around.stations import Stations
from service.socket import relied_on
from service.socket.connection import Connection
from service.socket.cycle import Cycle
from service.socket.reading import RequestReader
from service.socket.relied_on import RELIED_ON, changed_parts
from service.socket.server import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def looked_at_anew():
    relied_on._set_by.cache_clear()
    yield
    relied_on._set_by.cache_clear()


def test_what_is_installed_has_all_of_it() -> None:
    assert changed_parts() == []


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (HttpToolsProtocol, "_unset_keepalive_if_required"),
        (FlowControl, "resume_reading"),
        (uvicorn.Server, "on_tick"),
    ],
)
def test_a_method_that_is_gone_is_told_with_version_and_remedy(
    of: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(of, name)
    (told,) = changed_parts()
    assert told == (
        f"uvicorn {uvicorn.__version__} has no {of.__name__}.{name}; Heed is built on another: "
        "pip install 'uvicorn[standard]>=0.54,<0.55'"
    )


def test_an_attribute_that_nothing_sets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(self, scope, on_response) -> None:
        self.scope = self.transport = scope
        self.body = self.disconnected = self.keep_alive = self.message_event = self.response_started = None

    monkeypatch.setattr(RequestResponseCycle, "__init__", begin)
    monkeypatch.delattr(RequestResponseCycle, "receive")
    assert [one.split(";")[0].split()[-1] for one in changed_parts()] == [
        "RequestResponseCycle.more_body",
        "RequestResponseCycle.receive",
    ]


def test_other_arguments_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_header(self, name, value, raw) -> None:
        """Take one more than ours does."""

    def made(self, config, state, app_state, _loop=None) -> None:
        """Take one by another name."""

    on_header.__module__ = made.__module__ = "uvicorn.protocols"
    monkeypatch.setattr(HttpToolsProtocol, "on_header", on_header)
    monkeypatch.setattr(relied_on, "CALLED", {made: "config server_state app_state _loop"})
    first, second = changed_parts()
    assert "has no server_state in" in first
    assert "on_header with self, name, value, raw; Heed" in second


def test_a_server_refuses_to_start_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "_unset_keepalive_if_required")
    done = CliRunner().invoke(cli.cli, ["serve"])
    assert done.exit_code == 2
    assert "has no HttpToolsProtocol._unset_keepalive_if_required" in done.output


def test_the_remedy_is_what_the_project_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(relied_on.PINNED.values()) <= set(declared)


def used(receiver: str, *classes: type) -> set[str]:
    """Return the attributes of `self`, or of `self.receiver`, that the code of some classes names."""
    found = set()
    for one in classes:
        for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(one)))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (receiver, f"self.{receiver}"):
                found.add(node.attr)
    return {name for name in found if not name.startswith("__")}


@pytest.mark.parametrize(
    ("theirs", "names"),
    [
        (uvicorn.Server, used("self", Server)),
        (HttpToolsProtocol, used("self", RequestReader, Connection) - {"body"}),  # a body in place is ours
        (RequestResponseCycle, used("self", Cycle) | used("cycle", RequestReader, Connection)),
        (RequestResponseCycle, used("first", Connection)),
        (FlowControl, used("flow", RequestReader, Connection)),
        (relied_on.ServerState, used("server_state", Server, Connection) | used("state", Server)),
        (relied_on.httptools.HttpRequestParser, used("parser", RequestReader)),
        (uvicorn.Config, used("config", Server)),
        (relied_on.LifespanOn, used("lifespan", Server)),
        (relied_on.fastapi.FastAPI, used("app", Stations)),
        (relied_on.ServerErrorMiddleware, used("stack", Stations)),
    ],
    ids=lambda one: one.__name__ if isinstance(one, type) else "",
)
def test_all_that_is_used_is_looked_at(theirs: type, names: set[str]) -> None:
    assert names
    assert {name for name in names if relied_on._has(theirs, name)} <= set(RELIED_ON[theirs].split())


@pytest.mark.parametrize(("ours", "theirs"), relied_on.OVERRIDDEN.items())
def test_all_that_is_overridden_is_looked_at(ours: type, theirs: type) -> None:
    own = {
        name for one in ours.__mro__ if issubclass(one, theirs) and one is not theirs for name in vars(one)
    }
    special = {name for name in own if name.startswith("__")}
    assert {name for name in own - special if hasattr(theirs, name)} <= set(RELIED_ON[theirs].split())
