"""Head sets out of other people's files, and into a folder whole or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from models.errors import SpecError
from models.folders.head_importing import HowToImport, import_heads
from models.folders.parameters import parameter_shapes
from models.heads.formats import read_foreign
from models.heads.reading import read_head_sets
from models.heads.sets import HeadSet
from models.spec import ModelSpec

SAMPLES = Path(__file__).parent / "samples"
SPEC = ModelSpec(d_model=8, heads=4, layers=2)
WEIGHTS = np.linspace(-1, 1, 8, dtype=np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SPEC.to_config()))
    tensors = {name: np.ones(shape, np.float32) for name, shape in parameter_shapes(SPEC).items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def put(file: Path, model: Path, **how: Any) -> dict[str, HeadSet]:
    names = import_heads(file, model, HowToImport(**how))
    found = read_head_sets(model, {"": (2, 4)})[""]
    return {name: found[name] for name in names}


def refusal(file: Path, model: Path, **how: Any) -> str:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(SpecError) as caught:
        import_heads(file, model, HowToImport(**how))
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("sample", "how", "name", "pairs"),
    [
        ("qrhead.yaml", {}, "qr", ((1, 0), (0, 3), (1, 2))),
        ("core.json", {"top": 3}, "retrieval", ((1, 1), (1, 0), (1, 3))),
        ("retrieval_head.json", {"top": 2}, "retrieval", ((1, 3), (0, 1))),
        ("generation_config.json", {}, "alignment", ((1, 1), (0, 3), (1, 0))),
        ("tracker.json", {}, "tracker", ((1, 2), (0, 0))),
        ("pasta.json", {}, "pasta", ((1, 3), (1, 0), (0, 2))),
    ],
)
def test_files_of_others_are_read_in_their_order(
    model: Path, sample: str, how: dict[str, Any], name: str, pairs: Any
) -> None:
    (found,) = put(SAMPLES / sample, model, **how).items()
    assert found[0] == name
    assert found[1].pairs == pairs
    assert found[1].weights is None
    assert found[1].source


def test_scores_are_kept_as_weights_where_that_is_asked(model: Path) -> None:
    (found,) = put(SAMPLES / "core.json", model, top=2, weighted=True, name="core").values()
    assert found.weights == (1.0, 0.9781)
    assert "no scores to be weights" in refusal(SAMPLES / "qrhead.yaml", model, weighted=True)
    assert "no scores to take the highest of" in refusal(SAMPLES / "qrhead.yaml", model, top=3)


def test_a_table_of_all_heads_scores_is_no_set_until_it_is_said_how_many(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "all.json"
    file.write_text(json.dumps({f"{layer}-{head}": 0.5 for layer in range(9) for head in range(8)}))
    assert "a score for each of 72 heads; say how many are the set" in refusal(file, model)


def test_an_estimator_of_at2s_weighs_all_heads(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "at2.pt"
    state = {"linear.weight": torch.from_numpy(WEIGHTS)[None]}
    torch.save({"class": "LinearScoreEstimator", "state_dict": state, "kwargs": {"bias": False}}, file)
    (found,) = put(file, model).values()
    assert found.weights == tuple(WEIGHTS.tolist())
    assert found.pairs[5] == (1, 1)
    table = load_file(model / "heads.at2.safetensors")["weights"]
    assert np.array_equal(table, WEIGHTS.reshape(2, 4))


class Code:
    """What a pickle may hold, and what is never made of one."""


def test_a_torch_file_that_would_run_code_is_not_read(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "at2.pt"
    torch.save({"state_dict": {"linear.weight": torch.ones(1, 8)}, "extras": Code()}, file)
    assert "tensors and plain values alone" in refusal(file, model)


def test_a_contact_head_is_found_among_a_models_weights(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "esm.safetensors"
    regression = "esm.contact_head.regression"
    bias = np.array([-0.5], np.float32)
    save_file({f"{regression}.weight": WEIGHTS[None], f"{regression}.bias": bias, "x": bias}, file)
    (found,) = put(file, model).values()
    assert found.weights == tuple(WEIGHTS.tolist())
    assert (found.symmetric, found.apc, found.skip, found.bias, found.sigmoid) == (
        True,
        True,
        (1, 1),
        -0.5,
        True,
    )
    index = tmp_path / "model.safetensors.index.json"
    shard = {f"{regression}.weight": file.name, f"{regression}.bias": file.name, "y": "other.safetensors"}
    index.write_text(json.dumps({"weight_map": shard}))
    assert put(index, model, name="again")["again"].weights == found.weights
    assert "has no contact_head.regression.weight" in refusal(model / "model.safetensors", model)


def test_sets_of_another_folder_come_with_their_weights(tmp_path: Path, model: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_file({"weights": WEIGHTS.reshape(2, 4)}, other / "w.safetensors")
    sets = {"a": {"pairs": [[0, 1]]}, "b": {"file": "w.safetensors", "bias": 0.5}}
    (other / "head_sets.json").write_text(json.dumps(sets))
    found = put(other / "head_sets.json", model)
    assert found["a"].pairs == ((0, 1),)
    assert (found["b"].weights, found["b"].bias) == (tuple(WEIGHTS.tolist()), 0.5)
    assert "has no set c; it has a, b" in refusal(other / "head_sets.json", model, name="c", force=True)


def test_sets_that_are_there_stay_and_a_name_is_taken_only_by_force(model: Path) -> None:
    put(SAMPLES / "qrhead.yaml", model)
    assert "model has a head set qr already" in refusal(SAMPLES / "tracker.json", model, name="qr")
    put(SAMPLES / "pasta.json", model)
    put(SAMPLES / "tracker.json", model, name="qr", force=True, source="mine")
    found = read_head_sets(model, {"": (2, 4)})[""]
    assert {name: one.pairs for name, one in found.items()} == {
        "qr": ((1, 2), (0, 0)),
        "pasta": ((1, 3), (1, 0), (0, 2)),
    }
    assert found["qr"].source == "mine"


def test_heads_that_the_model_does_not_have_are_refused(tmp_path: Path, model: Path) -> None:
    file = tmp_path / "heads.json"
    file.write_text("[[2, 0]]")
    assert "it a name, --name NAME" in refusal(file, model)
    assert "mine.pairs[0] is [2, 0]; the model has 2 layers" in refusal(file, model, name="mine")
    estimator = tmp_path / "at2.pt"
    torch.save({"linear.weight": torch.ones(1, 12)}, estimator)
    assert "weighs 12 heads; the model has 2 layers of 4 heads, 8" in refusal(estimator, model)
    assert "a set is called '9'" in refusal(SAMPLES / "pasta.json", model, name="9")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "attn_head_set: full_heads", "attn_head_set is 'full_heads'; it must name heads"),
        ("a.yaml", "- 1", "has no attn_head_set"),
        ("a.yaml", "a: [", "a.yaml cannot be read"),
        ("a.yaml", 'attn_head_set: "1-2,1-2"', "attn_head_set has the same pair twice"),
        ("a.json", '{"important_heads": "all"}', "important_heads is 'all'; it must be a list"),
        ("a.json", '{"alignment_heads": [[1]]}', "alignment_heads has [1]; give [layer, head]"),
        ("a.json", '{"1-2": "high"}', "the score of 1-2 must be a number"),
        ("a.json", '{"1": ["2"]}', "a.json has [1, '2']; give [layer, head]"),
        ("a.json", '{"layers": 3}', "is none of the files that are read: QRHead's yaml"),
        ("a.json", "3", "must hold a list"),
        ("a.json", "{", "is not JSON"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError) as caught:
        read_foreign(tmp_path / name)
    assert reason in str(caught.value)
