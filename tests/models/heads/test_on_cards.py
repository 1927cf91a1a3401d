"""Head sets of a folder on the cards that are made of it, and copied with it into a repository."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.errors import SpecError
from models.folders.importing import import_model
from models.folders.parameters import parameter_shapes
from models.heads.sets import HeadSet
from models.runtime import TorchRuntime
from models.spec import ModelSpec

SPEC = ModelSpec(d_model=8, heads=4, layers=2)


def folder(at: Path, sets: Any) -> Path:
    at.mkdir(parents=True)
    (at / "config.json").write_text(json.dumps(SPEC.to_config()))
    chance = np.random.default_rng(0)
    shapes = parameter_shapes(SPEC).items()
    save_file(
        {name: chance.standard_normal(shape, np.float32) for name, shape in shapes}, at / "model.safetensors"
    )
    (at / "head_sets.json").write_text(json.dumps(sets))
    save_file({"weights": np.full((2, 4), 0.5, np.float32)}, at / "heads.at2.safetensors")
    return at


def runtime(repository: Path) -> TorchRuntime:
    return TorchRuntime(repository, models=None, device="cpu", dtype="float32")


def test_a_loaded_model_has_the_sets_of_its_folder(tmp_path: Path) -> None:
    folder(tmp_path / "mine", {"qr": {"pairs": [[1, 2], [0, 3]]}, "at2": {"file": "heads.at2.safetensors"}})
    sets = runtime(tmp_path).card("mine").head_sets
    assert sets["qr"] == HeadSet(pairs=((1, 2), (0, 3)))
    assert sets["at2"].weights == (0.5,) * 8


def test_a_set_of_another_model_refuses_the_folder_with_its_name_and_field(tmp_path: Path) -> None:
    folder(tmp_path / "mine", {"qr": {"pairs": [[2, 0]]}})
    (told,) = runtime(tmp_path).index()
    assert told["state"] == "UNAVAILABLE"
    assert "head_sets.json: qr.pairs[0] is [2, 0]; the model has 2 layers" in told["reason"]


def test_sets_are_copied_with_their_folder_and_checked(tmp_path: Path) -> None:
    sets = {"qr": {"pairs": [[1, 2]]}, "at2": {"file": "heads.at2.safetensors"}}
    done = import_model(folder(tmp_path / "mine", sets), tmp_path / "repository")
    assert done.head_sets == ("qr", "at2")
    assert set(runtime(tmp_path / "repository").card("mine").head_sets) == {"at2", "qr"}
    wrong = folder(tmp_path / "wrong", {"qr": {"pairs": [[1, 4]]}})
    with pytest.raises(SpecError, match="4 heads a layer, from 0 to 3"):
        import_model(wrong, tmp_path / "repository")
    assert [one.name for one in (tmp_path / "repository").iterdir()] == ["mine"]
