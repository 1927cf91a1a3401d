import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from models.errors import SpecError
from service.app import create_app
from service.http.oip import administration
from service.settings import Settings
from tests.fakes import FakeRuntime, fake_card


class Repository(FakeRuntime):
    """Two folders, one of them loaded, and one that cannot be."""

    def index(self) -> list[dict[str, str]]:
        waiting = {"name": "waiting", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
        return [*super().index(), *([] if "waiting" in self._cards else [waiting])]

    def load(self, name: str):
        if name == "broken":
            raise SpecError("config.json of broken: heads 5 do not divide d_model 16")
        return super().load(name)


@pytest.fixture
def runtime():
    return Repository(fake_card("fake"))


@pytest.fixture
def admin(runtime):
    with TestClient(create_app(Settings(admin=True), runtime)) as client:
        yield client


ROUTES = ["/v2/repository/index", "/v2/repository/models/fake/load", "/v2/repository/models/fake/unload"]


@pytest.mark.parametrize("route", ROUTES)
def test_repository_is_closed_unless_the_operator_opens_it(route, runtime):
    with TestClient(create_app(Settings(), runtime)) as client:
        reply = client.post(route)
        assert reply.status_code == 403
        assert set(reply.json()) == {"error"}
        assert "ADMIN" in reply.json()["error"]
        assert client.get("/v1/models/fake").status_code == 200


def test_index_lists_every_folder_and_leaves_out_what_is_not_ready_when_asked(admin):
    everything = admin.post("/v2/repository/index").json()
    assert [(entry["name"], entry["state"]) for entry in everything] == [
        ("fake", "READY"),
        ("waiting", "UNAVAILABLE"),
    ]
    ready = admin.post("/v2/repository/index", json={"ready": True}).json()
    assert ready == [{"name": "fake", "version": "1", "state": "READY", "reason": ""}]


def test_loaded_model_answers_and_unloaded_one_does_not(admin):
    assert admin.get("/v2/models/waiting/ready").status_code == 404
    assert admin.post("/v2/repository/models/waiting/load", json={}).status_code == 200
    assert admin.get("/v2/models/waiting/ready").json()["ready"] is True
    unload = {"parameters": {"unload_dependents": False}}
    assert admin.post("/v2/repository/models/waiting/unload", json=unload).status_code == 200
    assert admin.get("/v2/models/waiting/ready").status_code == 404


def test_folder_that_cannot_be_loaded_says_why_and_the_others_go_on(admin):
    reply = admin.post("/v2/repository/models/broken/load")
    assert reply.status_code == 422
    assert "heads 5" in reply.json()["error"]
    assert admin.get("/v2/models/fake/ready").status_code == 200


@pytest.mark.parametrize("name", ["%2e%2e", "..%5cx", ".hidden", "a%00b", "x" * 200, "%F0%9F%98%80"])
@pytest.mark.parametrize("action", ["load", "unload"])
def test_names_that_are_no_folder_of_the_repository_are_unknown(admin, name, action):
    assert admin.post(f"/v2/repository/models/{name}/{action}").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"ready": true, "ready": false}', 400),
        (b"x" * 70_000, 400),
        (b'{"ready": 1}', 422),
        (b'{"other": 1}', 422),
    ],
)
def test_bodies_that_make_no_sense_are_refused(admin, body, status):
    assert admin.post("/v2/repository/index", content=body).status_code == status


def test_parameters_cannot_change_a_model(admin):
    body = json.dumps({"parameters": {"config": "{}"}})
    assert admin.post("/v2/repository/models/waiting/load", content=body).status_code == 422


@pytest.mark.parametrize("parameters", [[], 0, False, "", [1]])
def test_parameters_of_another_type_are_refused(parameters, admin):
    for action in ("load", "unload"):
        reply = admin.post(
            f"/v2/repository/models/fake/{action}", content=json.dumps({"parameters": parameters})
        )
        assert reply.status_code == 400
    assert admin.get("/v1/models/fake").status_code == 200


def test_unload_dependents_is_true_or_false(admin):
    body = json.dumps({"parameters": {"unload_dependents": "yes"}})
    reply = admin.post("/v2/repository/models/fake/unload", content=body)
    assert reply.status_code == 422
    assert admin.get("/v1/models/fake").status_code == 200


class Held(Repository):
    """Loads and indexes begin, and end when they are let."""

    def __init__(self):
        super().__init__(fake_card("fake"))
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()

    def load(self, name):
        self.begun.release()
        assert self.may_end.wait(60)
        return super().load(name)

    def index(self):
        self.begun.release()
        assert self.may_end.wait(60)
        return super().index()


@pytest.fixture
def held():
    held = Held()
    yield held
    held.may_end.set()


def test_unload_and_requests_do_not_wait_for_a_load(held):
    with TestClient(create_app(Settings(admin=True), held)) as client, ThreadPoolExecutor(1) as other:
        load = other.submit(client.post, "/v2/repository/models/waiting/load")
        held.begun.acquire()
        assert client.get("/v2/models/fake/config").status_code == 200
        assert client.post("/v2/repository/models/fake/unload").status_code == 200
        assert client.get("/v2/models/fake/ready").status_code == 404
        held.may_end.set()
        assert load.result(60).status_code == 200


def test_index_of_a_disk_that_does_not_answer_is_given_up(held, monkeypatch):
    monkeypatch.setattr(administration, "QUESTION_SECONDS", 0.05)
    with TestClient(create_app(Settings(admin=True), held)) as client:
        reply = client.post("/v2/repository/index")
        assert reply.status_code == 503
        assert "not answered within 0.05 s" in reply.json()["error"]
        assert client.get("/v2/models/fake/ready").status_code == 200


def test_questions_of_administration_are_bounded_and_keep_no_thread_of_requests(held):
    many = administration.MOST_QUESTIONS
    with TestClient(create_app(Settings(admin=True), held)) as client, ThreadPoolExecutor(many) as others:
        loads = [others.submit(client.post, f"/v2/repository/models/m{at}/load") for at in range(many)]
        for _ in range(many):
            held.begun.acquire()
        refused = client.post("/v2/repository/models/one-more/load")
        assert refused.status_code == 429
        assert str(many) in refused.json()["error"]
        long = {"inputs": [{"text": "a b " * 4000}], "truncate": True}
        assert client.post("/v1/models/fake/attend", json=long).status_code == 200
        held.may_end.set()
        assert {load.result(60).status_code for load in loads} == {200}
