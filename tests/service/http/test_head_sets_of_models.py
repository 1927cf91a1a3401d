"""Head sets asked for by name of real models: equal to what is made of their whole maps, and small."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EsmConfig, EsmModel

from models.folders.head_importing import HowToImport, import_heads
from models.runtime import TorchRuntime
from tests.serving import served
from tests.tiny_architectures import tiny

SAMPLES = Path(__file__).parents[2] / "models" / "heads" / "samples"
PAIRS = [[5, 1], [0, 7], [3, 11], [2, 2], [4, 0], [1, 6], [3, 0], [5, 10]]
WORDS = ["the", "river", "bank", "was", "flooded", "while", "another", "bank", "lent", "money"]


def linked(source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def runtime(repository: Path) -> TorchRuntime:
    return TorchRuntime(repository, models=None, device="cpu", dtype="float32")


def test_a_few_sums_of_a_long_text_are_under_four_kilobytes_and_right(
    minilm_folder: Path, tmp_path: Path
) -> None:
    folder = linked(minilm_folder, tmp_path / "minilm")
    weights = np.linspace(-1, 2, len(PAIRS)).tolist()
    (folder / "head_sets.json").write_text(json.dumps({"eight": {"pairs": PAIRS, "weights": weights}}))
    text = " ".join(WORDS[place % len(WORDS)] for place in range(400))
    spans = {"first": [0, 90], "second": [90, 200], "third": [200, 380], "question": [380, 402]}
    asked = {
        "inputs": [{"text": text, "spans": spans}],
        "heads": "eight",
        "rows": [[380, 400]],
        "columns": list(spans),
        "outputs": ["mixed"],
        "tokens": False,
    }
    with served(runtime(tmp_path)) as service:
        reply = service.attend(asked, model="minilm")
        whole = service.attend(
            {"inputs": asked["inputs"], "heads": PAIRS, "rows": [[380, 400]], "outputs": ["weights"]},
            model="minilm",
        )
    assert len(reply.content) < 4096
    mixed = np.array(reply.json()["outputs"][0]["mixed"])
    maps = np.array(whole.json()["outputs"][0]["weights"])
    assert maps.shape == (8, 20, 402)
    expected = [np.einsum("p,pts->t", weights, maps[:, :, start:end]) for start, end in spans.values()]
    np.testing.assert_allclose(mixed, np.stack(expected, 1), atol=1e-6)


@pytest.fixture
def esm(tmp_path: Path) -> tuple[EsmModel, Path]:
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        position_embedding_type="rotary",
        token_dropout=False,
        pad_token_id=1,
        mask_token_id=32,
        emb_layer_norm_before=False,
    )
    model = EsmModel._from_config(config, add_pooling_layer=False, attn_implementation="eager").eval()
    for tensor in model.parameters():
        tensor.data.normal_(std=0.3)
    model.save_pretrained(tmp_path / "esm")
    return model, tmp_path / "esm"


def test_contacts_by_a_models_own_head_are_those_that_transformers_predicts(
    esm: tuple[EsmModel, Path], tmp_path: Path
) -> None:
    model, folder = esm
    assert import_heads(folder, folder, HowToImport()) == ("contacts",)
    ids = [0, 5, 9, 14, 7, 7, 20, 11, 4, 2]  # 2 is the end, which transformers leaves out
    with served(runtime(tmp_path)) as service:
        body = {"inputs": [{"token_ids": ids}], "heads": "contacts", "outputs": ["mixed"]}
        reply = service.attend(body, model="esm")
    assert reply.status_code == 200, reply.text
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        expected = model.predict_contacts(tokens, torch.ones_like(tokens))[0].numpy()
    np.testing.assert_allclose(reply.json()["outputs"][0]["mixed"], expected, atol=1e-5)


def test_alignment_heads_are_of_the_cross_attention_of_their_model(tmp_path: Path) -> None:
    tiny("bart").save_pretrained(tmp_path / "bart")
    import_heads(SAMPLES / "generation_config.json", tmp_path / "bart", HowToImport())
    found = runtime(tmp_path)
    sets = {name: list(found.card(name).head_sets) for name in ("bart", "bart.decoder", "bart.cross")}
    assert sets == {"bart": [], "bart.decoder": [], "bart.cross": ["alignment"]}
    memory = np.random.default_rng(0).standard_normal((5, found.card("bart.cross").d_model)).tolist()
    given = {"token_ids": [2, 7, 9], "memory": memory, "spans": {"word": [1, 3]}}
    body = {"inputs": [given], "heads": "alignment", "rows": "word", "columns": ["word", [0, 5]]}
    with served(found) as service:
        reply = service.attend({**body, "outputs": ["mixed", "weights"]}, model="bart.cross").json()
        every = service.attend(
            {"inputs": [given], "layers": "all", "outputs": ["weights"]}, model="bart.cross"
        )
    (output,), (whole,) = reply["outputs"], every.json()["outputs"]
    maps = np.array(whole["weights"])[[1, 0, 1], [1, 3, 0]]
    np.testing.assert_allclose(output["weights"], maps[:, 1:], atol=1e-6)
    total = maps.sum(0)[1:]
    np.testing.assert_allclose(output["mixed"], np.stack([total[:, 1:3].sum(1), total.sum(1)], 1), atol=1e-5)
