from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import SpecError
from models.runtime import TorchRuntime
from tests.sentence_folders import FOLDERS, WIDTH, build, edit, encode
from tests.serving import Served, served

TEXTS = [
    "She sat on The Bank",
    "a",
    "The quick brown Fox jumps over the lazy Dog, and the River bank flooded the village. " * 2,
    "Grüße aus Köln",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sentences")
    for name, folder in FOLDERS.items():
        build(root / name, *folder)
    return root


@pytest.fixture(scope="module")
def runtime(folders: Path) -> TorchRuntime:
    return TorchRuntime(folders, models=None, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def service(runtime: TorchRuntime) -> Iterator[Served]:
    with served(runtime) as one:
        yield one


def embedded(service: Served, model: str, texts: Any = TEXTS, **options: Any) -> np.ndarray:
    body = {"model": model, "input": texts, "truncate": True, **options}
    response = service.post("/v1/embeddings", body)
    assert response.status_code == 200, response.text
    return np.array([one["embedding"] for one in response.json()["data"]])


@pytest.mark.parametrize("name", FOLDERS)
def test_embeddings_are_those_of_sentence_transformers(service, folders, name):
    expected = encode(folders / name, TEXTS)
    assert embedded(service, name) == pytest.approx(expected, abs=1e-5)
    for text, vector in zip(TEXTS, expected, strict=True):
        assert embedded(service, name, text)[0] == pytest.approx(vector, abs=1e-5)


def test_nothing_of_these_folders_is_left_out(runtime):
    assert {card.name: card.notes for card in runtime.cards()} == dict.fromkeys(sorted(FOLDERS), ())
    assert all("pooled" in card.outputs for card in runtime.cards())


@pytest.mark.parametrize("name", ["modernbert-dense", "embeddinggemma"])
def test_models_of_embeddings_need_no_code_of_transformers(runtime, name):
    assert not runtime.card(name).kernel.startswith("transformers")


@pytest.mark.parametrize("name", ["default-prompt", "prompts", "prompt-left-out-mean", "embeddinggemma"])
@pytest.mark.parametrize("prompt", ["query", "document"])
def test_a_prompt_is_chosen_by_its_name(service, folders, name, prompt):
    expected = encode(folders / name, TEXTS, prompt_name=prompt)
    assert embedded(service, name, prompt_name=prompt) == pytest.approx(expected, abs=1e-5)


def test_a_prompt_that_is_not_there_is_answered_with_those_that_are(service):
    response = service.post("/v1/embeddings", {"model": "prompts", "input": "a", "prompt_name": "passage"})
    assert response.status_code == 422
    assert "Available prompts: [" in response.json()["error"]["message"]
    assert "query" in response.json()["error"]["message"]


def test_token_ids_have_no_prompt(service, runtime):
    ids = runtime.tokenize(runtime.card("default-prompt"), "a").ids.tolist()
    plain = embedded(service, "default-prompt", "a", prompt_name="document")
    assert embedded(service, "default-prompt", ids) == pytest.approx(plain, abs=1e-6)


def test_dimensions_are_cut_and_normalised_again_where_the_folder_permits_it(service):
    cut = embedded(service, "truncate-dim", dimensions=3)
    whole = embedded(service, "truncate-dim", dimensions=WIDTH)
    assert cut.shape == (len(TEXTS), 3)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-6)
    assert cut == pytest.approx(whole[:, :3] / np.linalg.norm(whole[:, :3], axis=1, keepdims=True), abs=1e-6)


@pytest.mark.parametrize(
    ("model", "dimensions", "reason"),
    [
        ("mode-mean", 3, f"gives {WIDTH}, and its folder does not say that they may be cut"),
        ("truncate-dim", WIDTH + 1, f"choose from 1 to {WIDTH}"),
    ],
)
def test_dimensions_that_are_not_permitted_are_refused_with_the_reason(service, model, dimensions, reason):
    response = service.post("/v1/embeddings", {"model": model, "input": "a", "dimensions": dimensions})
    assert response.status_code == 422
    assert reason in response.json()["error"]["message"]


def test_only_the_dimensions_that_the_configuration_lists_may_be_asked(tmp_path):
    build(tmp_path / "listed", *FOLDERS["mode-cls"])
    edit("config.json", matryoshka_dimensions=[4, 8])(tmp_path / "listed")
    with served(TorchRuntime(tmp_path, models=None, device="cpu", dtype="float32")) as service:
        assert embedded(service, "listed", dimensions=4).shape[1] == 4
        response = service.post("/v1/embeddings", {"model": "listed", "input": "a", "dimensions": 5})
        assert "may be cut to 4, 8" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("tokenizer_config", {"model_max_length": 0}, "model_max_length of tokenizer_config.json is 0"),
        ("tokenizer_config", {"model_max_length": -1}, "model_max_length of tokenizer_config.json is -1"),
        ("tokenizer_config", {"model_max_length": 2}, "2 special tokens, so give 3 or more"),
        ("sentence_bert_config", {"max_seq_length": 1}, "max_seq_length of sentence_bert_config.json is 1"),
        ("config_sentence_transformers", {"prompts": {"query": "a" * 500_000}}, "prompt 'query' .*500000"),
        ("config_sentence_transformers", {"prompts": {"query": "a " * 5000}}, "prompt 'query' .*tokens"),
    ],
)
def test_a_limit_or_a_prompt_that_leaves_a_text_no_room_is_the_models_reason(tmp_path, file, changes, reason):
    build(tmp_path / "odd", *FOLDERS["mode-mean"])
    if file == "tokenizer_config":  # else the other file counts for more
        edit("sentence_bert_config.json", max_seq_length=None)(tmp_path / "odd")
    edit(f"{file}.json", **changes)(tmp_path / "odd")
    with pytest.raises(SpecError, match=reason):
        TorchRuntime(tmp_path, models=("odd",), device="cpu", dtype="float32")


def test_a_text_that_would_be_cut_is_refused_and_told_by_what(service):
    response = service.post("/v1/embeddings", {"model": "cut-at", "input": TEXTS[2], "truncate": False})
    assert response.status_code == 413
    assert "pools at most 12, as max_seq_length of sentence_bert_config.json says" in response.text
    response = service.attend({"inputs": [{"text": TEXTS[2]}], "outputs": ["weights_mean"]}, model="cut-at")
    assert len(response.json()["outputs"][0]["tokens"]) > 12


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (edit("1_Pooling/config.json", pooling_mode="median"), "1_Pooling pools by 'median'"),
        (edit("1_Pooling/config.json", embedding_dimension=7), "pooling is of 7 numbers a token"),
        (edit("2_Dense/config.json", in_features=7), "2_Dense reads 7 numbers"),
        (edit("2_Dense/config.json", out_features=7), "2_Dense/model.safetensors should have linear.weight"),
        (edit("2_Dense/config.json", activation_function="mine.Act"), "activation 'mine.Act'"),
        (lambda folder: (folder / "2_Dense" / "model.safetensors").unlink(), "2_Dense needs weights"),
        (lambda folder: (folder / "modules.json").unlink(), "no modules.json"),
    ],
)
def test_what_is_not_supported_is_said_where_it_is_asked(tmp_path, caplog, changes, reason):
    build(tmp_path / "odd", *FOLDERS["dense"])
    changes(tmp_path / "odd")
    runtime = TorchRuntime(tmp_path, models=None, device="cpu", dtype="float32")
    with served(runtime) as service:
        response = service.post("/v1/embeddings", {"model": "odd", "input": "a"})
        assert (response.status_code, reason in response.text) == (422, True)
        response = service.attend({"inputs": [{"text": "a"}], "outputs": ["pooled"]}, model="odd")
        assert (response.status_code, reason in response.text) == (422, True)
        assert service.attend({"inputs": [{"text": "a"}]}, model="odd").status_code == 200
    card = runtime.card("odd")
    assert reason in card.not_offered["pooled"]
    if "modules.json" not in reason:
        assert reason in card.notes[0]
        assert reason in caplog.text


def test_text_that_cannot_be_read_exactly_is_not_offered_and_the_field_named(tmp_path, caplog):
    build(tmp_path / "odd", *FOLDERS["mode-mean"])
    edit("tokenizer_config.json", unheard_of=1)(tmp_path / "odd")
    runtime = TorchRuntime(tmp_path, models=None, device="cpu", dtype="float32")
    assert runtime.card("odd").inputs == ("embeddings", "token_ids")
    with served(runtime) as service:
        for response in (
            service.post("/v1/embeddings", {"model": "odd", "input": "a"}),
            service.attend({"inputs": [{"text": "a"}]}, model="odd"),
        ):
            assert (response.status_code, "'unheard_of'" in response.text) == (422, True)
        assert service.post("/v1/embeddings", {"model": "odd", "input": [2, 9, 3]}).status_code == 200
    assert "text is not offered: tokenizer_config.json has 'unheard_of'" in caplog.text


def test_rows_that_a_mask_picks_are_pooled_as_sentence_transformers_does_with_padding(service, runtime):
    """Two tokens before the text, masked: as if they were padding on the left."""
    for name in ("left-lasttoken", "left-weightedmean", "left-mean"):
        ids = runtime.tokenize(runtime.card(name), TEXTS[0]).ids.tolist()
        body = {"inputs": [{"token_ids": [5, 6, *ids], "mask": [False] * 2 + [True] * len(ids)}]}
        padded = service.attend({**body, "outputs": ["pooled"]}, model=name)
        (expected,) = embedded(service, name, TEXTS[0])
        assert padded.json()["outputs"][0]["pooled"] == pytest.approx(expected, abs=1e-4)


def test_texts_of_3_to_600_tokens_through_minilm_are_those_of_sentence_transformers(minilm_folder):
    chance = np.random.default_rng(0)
    words = (minilm_folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[2000:12000]
    texts = [" ".join(chance.choice(words, length)) for length in np.linspace(1, 598, 25).astype(int)]
    expected = encode(minilm_folder, texts)
    runtime = TorchRuntime(minilm_folder.parent, models=("minilm",), device="cpu", dtype="float32")
    with served(runtime) as service:
        assert np.abs(embedded(service, "minilm", texts) - expected).max() < 1e-5
