"""Parameters that several layers have are in memory once: as a folder's, as a card's, and as what runs."""

from pathlib import Path

import torch

from models.folders.families import read_spec
from models.folders.parameters import parameter_shapes
from models.folders.weights import load_weights, weight_bytes
from models.loading import loaded
from models.runtime import TorchRuntime
from models.spec import ModelSpec
from tests.native_families import CASES
from tests.transformers_models import save_random

D, LAYERS = 32, 3


def test_albert_is_read_kept_and_counted_once(tmp_path: Path) -> None:
    model_type, changes = CASES["albert"]
    assert changes["num_hidden_layers"] == LAYERS
    eager = save_random(model_type, changes, "AlbertModel", tmp_path / "model")
    nbytes = sum(one.nbytes for name, one in eager.named_parameters() if not name.startswith("pooler."))
    found = read_spec(tmp_path / "model")
    assert weight_bytes(found.weights, naming=found.naming, dtype=torch.float32) == nbytes
    parameters = load_weights(found.weights, found.spec, found.naming)
    assert sum(one.nbytes for one in parameters.values()) == nbytes
    runtime = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    assert runtime.memory()["weights"] == nbytes
    blocks = loaded(runtime.card("model")).model.blocks
    assert len(blocks) == LAYERS
    assert len({id(block) for block in blocks}) == 1


def test_a_specification_has_the_parameters_of_as_many_layers_as_are_not_alike() -> None:
    alone = ModelSpec(d_model=D, layers=5, residual=True)
    shared = ModelSpec(d_model=D, layers=5, residual=True, shared=(0, 0, 1, 1, 1))
    assert len(parameter_shapes(shared)) * 5 == len(parameter_shapes(alone)) * 2
