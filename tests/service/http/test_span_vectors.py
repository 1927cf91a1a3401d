"""Vectors of spans: sentence-transformers' modules on a span's token embeddings; Jina's late chunking."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from models.runtime import TorchRuntime
from tests.fakes import FakeRuntime
from tests.sentence_folders import FOLDERS, build
from tests.serving import Served, served

OF_SPANS = ("mode-mean", "mode-max", "mode-mean_sqrt_len_tokens", "dense", "norms", "left-mean")
OF_ONE_TOKEN = ("mode-cls", "mode-lasttoken", "two-modes")
CHUNKS = ["The River bank flooded.", "Its inhabitants left,", " and the old Town is empty now. "]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sentences")
    for name in (*OF_SPANS, *OF_ONE_TOKEN):
        build(root / name, *FOLDERS[name])
    return root


@pytest.fixture(scope="module")
def service(folders: Path) -> Iterator[Served]:
    with served(TorchRuntime(folders, models=None, device="cpu", dtype="float32")) as one:
        yield one


def by_modules(folder: Path, text: str, spans: list[list[int]]) -> np.ndarray:
    """What sentence-transformers' modules make of the token embeddings of each span."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    tokens = torch.as_tensor(model.encode(text, output_value="token_embeddings"))
    made = []
    for start, end in spans:
        features: dict[str, Any] = {
            "token_embeddings": tokens[None, start:end],
            "attention_mask": torch.ones(1, end - start, dtype=torch.int64),
        }
        for module in list(model)[1:]:
            features = module(features)
        made.append(features["sentence_embedding"][0].detach().numpy())
    return np.stack(made)


def attend(service: Served, model: str, **body: Any) -> dict[str, Any]:
    reply = service.post(f"/v1/models/{model}/attend", body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json()["outputs"][0])


def late(service: Served, model: str, texts: Any, **options: Any) -> dict[str, Any]:
    body = {"model": model, "input": texts, "late_chunking": True, **options}
    reply = service.post("/v1/embeddings", body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def vectors(reply: dict[str, Any]) -> np.ndarray:
    return np.array([one["embedding"] for one in reply["data"]])


@pytest.mark.parametrize("name", OF_SPANS)
def test_each_span_is_pooled_as_the_model_pools(service: Served, folders: Path, name: str) -> None:
    text = "".join(CHUNKS)
    spans = [[1, 4], [2, 9], [5, 6]]
    found = attend(service, name, inputs=[{"text": text, "spans": spans}], outputs=["pooled"])
    assert np.array(found["pooled"]) == pytest.approx(by_modules(folders / name, text, spans), abs=1e-5)


def test_one_span_of_everything_is_the_vector_of_the_whole(service: Served) -> None:
    (text, *_) = CHUNKS
    whole = attend(service, "mode-mean", inputs=[{"text": text}], outputs=["pooled"])
    spanned = attend(
        service, "mode-mean", inputs=[{"text": text}], outputs=["pooled"], spans=[[0, len(whole["tokens"])]]
    )
    assert spanned["pooled"] == [whole["pooled"]]


def test_a_span_has_the_same_bits_whatever_is_asked_beside_it(service: Served) -> None:
    text = "".join(CHUNKS)
    alone = attend(service, "norms", inputs=[{"text": text, "spans": [[2, 5]]}], outputs=["pooled"])
    body = {
        "inputs": [{"text": CHUNKS[0]}, {"text": text, "spans": [[1, 3], [2, 5], [0, 9]]}],
        "outputs": ["pooled"],
    }
    beside = service.post("/v1/models/norms/attend", body).json()["outputs"][1]
    assert beside["pooled"][1] == alone["pooled"][0]


def test_weights_and_vectors_of_the_same_spans_in_one_reply(service: Served) -> None:
    found = attend(
        service,
        "mode-mean",
        inputs=[{"text": CHUNKS[0]}],
        spans="words",
        outputs=["pooled", "weights"],
        layers="all",
    )
    words = len(CHUNKS[0].split())
    assert np.array(found["pooled"]).shape == (2, words, 16)
    assert np.array(found["weights"]).shape == (2, 2, words, words)


def test_what_a_mask_hides_is_not_pooled(service: Served) -> None:
    ids, mask = [5, 9, 31, 12, 7], [True, True, False, True, True]
    asked = {"token_ids": ids, "mask": mask, "spans": [[1, 3], [1, 2], [2, 3]]}
    some, one, none = attend(service, "mode-mean", inputs=[asked], outputs=["pooled"])["pooled"]
    assert some == one
    assert none == [0.0] * 16


@pytest.mark.parametrize("name", OF_ONE_TOKEN)
def test_pooling_of_one_token_has_no_vectors_of_spans(service: Served, name: str) -> None:
    body = {"inputs": [{"text": CHUNKS[0], "spans": [[1, 3]]}], "outputs": ["pooled"]}
    reply = service.post(f"/v1/models/{name}/attend", body)
    assert reply.status_code == 422
    assert f"model {name} pools one token for the whole sequence" in reply.json()["error"]["message"]
    reply = service.post("/v1/embeddings", {"model": name, "input": CHUNKS, "late_chunking": True})
    assert reply.status_code == 422


@pytest.mark.parametrize("name", ["mode-mean", "dense"])
def test_late_chunks_are_spans_of_one_text(service: Served, folders: Path, name: str) -> None:
    text = "The River bank flooded. Its inhabitants left, and the old Town is empty now. "
    reply = late(service, name, CHUNKS)
    borders = [0, 23, 24, 45, 45, len(text)]
    offsets = attend(service, name, inputs=[{"text": text}], outputs=["hidden"])["offsets"]
    spans = []
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        own = [
            at for at, (begin, stop) in enumerate(offsets) if stop > begin and start <= begin and stop <= end
        ]
        spans.append([own[0], own[-1] + 1])
    assert vectors(reply) == pytest.approx(by_modules(folders / name, text, spans), abs=1e-5)
    assert [one["index"] for one in reply["data"]] == [0, 1, 2]
    assert reply["usage"]["prompt_tokens"] == len(offsets)


def test_a_late_chunk_knows_what_is_around_it(service: Served) -> None:
    plain = service.post("/v1/embeddings", {"model": "mode-mean", "input": CHUNKS}).json()
    assert np.abs(vectors(late(service, "mode-mean", CHUNKS)) - vectors(plain)).max() > 0.01
    no = service.post(
        "/v1/embeddings", {"model": "mode-mean", "input": CHUNKS, "late_chunking": False}
    ).json()
    assert vectors(no).tolist() == vectors(plain).tolist()


def test_chunks_may_be_lists_of_ids_and_vectors_base64(service: Served) -> None:
    whole = attend(
        service,
        "mode-mean",
        inputs=[{"token_ids": [5, 9, 31, 12, 7]}],
        spans=[[0, 2], [2, 5]],
        outputs=["pooled"],
    )
    reply = late(service, "mode-mean", [[5, 9], [31, 12, 7]])
    assert vectors(reply).tolist() == whole["pooled"]
    text = late(service, "mode-mean", [[5, 9], [31, 12, 7]], encoding_format="base64")["data"][1]["embedding"]
    assert isinstance(text, str)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": ["a", "  "]}, "input[1] is a chunk without text; leave it out"),
        ({"input": ["a b"], "truncate": True}, "nothing may be cut"),
        ({"input": ["a b"], "truncate_prompt_tokens": 4}, "nothing may be cut"),
    ],
)
def test_chunks_that_could_have_no_vector_are_refused(
    service: Served, body: dict[str, Any], said: str
) -> None:
    reply = service.post("/v1/embeddings", {"model": "mode-mean", "late_chunking": True, **body})
    assert reply.status_code == 422
    assert said in reply.json()["error"]["message"]


def test_chunks_that_are_too_long_together_are_refused_with_both_numbers(service: Served) -> None:
    reply = service.post(
        "/v1/embeddings", {"model": "mode-mean", "late_chunking": True, "input": ["a river"] * 60}
    )
    assert reply.status_code == 413
    message = reply.json()["error"]["message"]
    assert "80" in message
    assert message.startswith("all of input together: ")
    assert "truncate" not in message  # which late_chunking does not have


def test_spans_of_nothing_that_is_asked_are_refused() -> None:
    with served(FakeRuntime()) as service:
        reply = service.attend({"inputs": [{"text": "a b"}], "spans": [[0, 1]], "outputs": ["z"]})
    assert reply.status_code == 422
    assert "spans are of the outputs weights and pooled" in reply.json()["error"]["message"]
