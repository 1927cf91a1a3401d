from fastapi import FastAPI

from models.heads.sets import HeadSet
from models.outputs import OUTPUTS
from service.http.errors import install
from service.http.pages.catalog import CatalogLimits, ModelList, OneModel, router
from tests.asgi import Reply, call
from tests.fakes import FakeRuntime, fake_card

LIMITS = CatalogLimits(max_body_bytes=1000, max_result_bytes=2000, max_sequence_tokens=128, deadline_ms=3000)


def ask(path: str, runtime: FakeRuntime | None = None) -> Reply:
    app = FastAPI()
    install(app)
    app.include_router(router(runtime or FakeRuntime(), LIMITS))
    return call(app, path)


def test_model_page_says_everything_the_contract_lists() -> None:
    page = ask("/v1/models/fake").json()
    assert page["name"] == "fake"
    assert (page["layers"], page["heads"], page["d_model"]) == (2, 2, 4)
    assert (page["dtype"], page["device"], page["bytes_resident"]) == ("float32", "cpu", 1024)
    assert page["kernel"] == "fake"
    assert page["spec"] == {"d_model": 4}
    assert page["inputs"] == ["embeddings", "token_ids", "text"]
    assert "handle" not in page
    assert page["examples"] == []


def test_outputs_are_described_from_the_one_vocabulary() -> None:
    outputs = {output["name"]: output for output in ask("/v1/models/fake").json()["outputs"]}
    assert list(outputs) == list(OUTPUTS)
    assert outputs["weights"]["shape"] == "[H, T, S]"
    assert outputs["top_k_keys"]["dtype"] == "int32"
    assert outputs["rollout"]["layered"] is False


def test_only_outputs_that_the_model_offers_are_listed() -> None:
    runtime = FakeRuntime(fake_card(outputs=("z", "weights")))
    assert [output["name"] for output in ask("/v1/models/fake", runtime).json()["outputs"]] == [
        "z",
        "weights",
    ]


def test_longest_sequence_is_the_smaller_of_the_servers_and_the_models() -> None:
    runtime = FakeRuntime(fake_card("short", max_tokens=16), fake_card("any", max_tokens=None))
    limits = {page["name"]: page["limits"] for page in ask("/v1/models", runtime).json()["models"]}
    assert limits["short"]["max_sequence_tokens"] == 16
    assert limits["any"]["max_sequence_tokens"] == 128
    assert limits["any"]["max_body_bytes"] == 1000


def test_list_has_every_model_by_name_and_speaks_openai_too() -> None:
    body = ask("/v1/models", FakeRuntime(fake_card("b"), fake_card("a"))).json()
    assert [page["name"] for page in body["models"]] == ["a", "b"]
    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == ["a", "b"]


def test_pages_are_what_the_api_description_says() -> None:
    sets = {"qr": HeadSet(pairs=((0, 1),))}
    card = ask("/v1/models/fake", FakeRuntime(fake_card(head_sets=sets))).body
    OneModel.model_validate_json(card, strict=True, extra="forbid")
    ModelList.model_validate_json(ask("/v1/models").body, strict=True, extra="forbid")


def test_head_sets_are_listed_with_what_they_cost_and_whose_they_are() -> None:
    sets = {
        "qr": HeadSet(pairs=((0, 1), (0, 0)), source="arXiv:2506.09944"),
        "contacts": HeadSet(pairs=((1, 1),), weights=(0.5,), symmetric=True),
        "all": HeadSet(pairs=tuple((0, head) for head in range(65))),
    }
    assert ask("/v1/models/fake", FakeRuntime(fake_card(head_sets=sets))).json()["head_sets"] == {
        "qr": {
            "pairs": 2,
            "heads": [[0, 1], [0, 0]],
            "layers": 1,
            "weighted": False,
            "whole": False,
            "source": "arXiv:2506.09944",
        },
        "contacts": {
            "pairs": 1,
            "heads": [[1, 1]],
            "layers": 2,
            "weighted": True,
            "whole": True,
            "source": "",
        },
        "all": {"pairs": 65, "heads": [], "layers": 1, "weighted": False, "whole": False, "source": ""},
    }
    assert ask("/v1/models/fake").json()["head_sets"] == {}


def test_unknown_model_is_404() -> None:
    reply = ask("/v1/models/nobody")
    assert (reply.status, reply.json()["error"]["code"]) == (404, "unknown_model")


def test_model_loaded_later_is_listed() -> None:
    runtime = FakeRuntime()
    runtime.load("late")
    assert ask("/v1/models/late", runtime).status == 200
