"""The mechanisms of the source documents as model folders, through the whole service but the socket.

Each row's formula is tested where it is built; here a folder is written, read, served and asked over HTTP,
and the answer compared with float64 written the slow way, or with torch's own module.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from starlette.testclient import TestClient

from models.errors import SpecError
from models.folders.families import read_spec
from models.folders.parameters import parameter_shapes
from models.mechanism import PositionSpec, ProjectionSpec
from models.runtime import TorchRuntime
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from models.training import grammar
from models.training.plan import Plan
from models.training.train import train
from service.app import create_app
from service.settings import Settings
from tests.slow_stack import SlowStack, random_parameters

ROWS = range(1, 19)
TOLERANCE = 2e-5
X = np.random.default_rng(0).standard_normal((5, 16), dtype=np.float32)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Put one model folder into a repository."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), folder / "model.safetensors")


@contextmanager
def serving(repository: Path, *models: str) -> Iterator[TestClient]:
    runtime = TorchRuntime(repository, models=models or ("it",), device="cpu", dtype="float32")
    with TestClient(create_app(Settings(), runtime)) as client:
        yield client


def attend(client: TestClient, model: str = "it", *, x: np.ndarray = X, **body: object) -> dict[str, Any]:
    """Ask for one sequence; return its outputs as arrays, and its tokens."""
    given = body.pop("input", {"embeddings": x.tolist()})
    reply = client.post(f"/v1/models/{model}/attend", json={"inputs": [given], **body})
    assert reply.status_code == 200, reply.text
    (output,) = reply.json()["outputs"]
    return {name: value if name == "tokens" else np.array(value) for name, value in output.items()}


@contextmanager
def served(folder: Path, spec: ModelSpec) -> Iterator[tuple[TestClient, SlowStack]]:
    """Serve random parameters of a specification as model `it`."""
    parameters = random_parameters(spec)
    write(folder / "it", spec.to_config(), parameters)
    with serving(folder) as client:
        yield client, SlowStack(spec, parameters)


def test_every_row_has_a_test_named_after_it() -> None:
    named = {
        node.name[len("test_seed_") :][:2]
        for file in Path(__file__).parent.parent.rglob("test_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_seed_")
    }
    assert named == {f"{row:02}" for row in ROWS}


@pytest.mark.parametrize("query", ["linear", "mlp"])
def test_seed_09_linear_or_mlp_queries_and_a_feed_forward_after_attention(query: str, tmp_path: Path) -> None:
    spec = ModelSpec(
        d_model=16,
        heads=2,
        projection=ProjectionSpec(query=query, activation="relu"),  # type: ignore[arg-type]
        residual=True,
        norm=NormSpec(kind="layer"),
        feed_forward=FeedForwardSpec(d_ff=24, activation="relu"),
    )
    with served(tmp_path, spec) as (client, slow):
        actual = attend(client, outputs=["z", "weights", "hidden"])
    z, weights, hidden = slow.run(X)
    np.testing.assert_allclose(actual["z"], z[0], atol=TOLERANCE)
    np.testing.assert_allclose(actual["weights"], weights[0], atol=TOLERANCE)
    np.testing.assert_allclose(actual["hidden"], hidden[0], atol=TOLERANCE)


def test_seed_10_one_query_at_a_time_gives_the_rows_of_the_whole(tmp_path: Path) -> None:
    names = ["z", "weights", "entropy", "queries"]
    with served(tmp_path, ModelSpec(d_model=16, heads=2)) as (client, _):
        whole = attend(client, outputs=names)
        for row in range(len(X)):
            one = attend(client, outputs=names, rows=[row])
            np.testing.assert_allclose(one["z"][0], whole["z"][row], atol=TOLERANCE)
            for name in names[1:]:
                np.testing.assert_allclose(one[name][:, 0], whole[name][:, row], atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["none", "sinusoidal", "learned", "rotary"])
def test_seed_12_positions_and_sequences_of_varying_length(kind: str, tmp_path: Path) -> None:
    most = 16 if kind == "learned" else None
    positions = PositionSpec(kind=kind, max_positions=most)  # type: ignore[arg-type]
    order = [3, 1, 4, 0, 2]
    with served(tmp_path, ModelSpec(d_model=16, heads=2, positions=positions)) as (client, slow):
        straight, permuted = attend(client)["z"], attend(client, x=X[order])["z"]
        assert np.allclose(straight[order], permuted, atol=TOLERANCE) == (kind == "none")
        ragged = [X[:length] for length in (5, 1, 3)]
        body = {"inputs": [{"embeddings": one.tolist()} for one in ragged]}
        outputs = client.post("/v1/models/it/attend", json=body).json()["outputs"]
    for one, output in zip(ragged, outputs, strict=True):
        z, weights, _ = slow.run(one)
        np.testing.assert_allclose(output["z"], z[0], atol=TOLERANCE)
        np.testing.assert_allclose(output["weights"], weights[0], atol=TOLERANCE)


def test_seed_13_what_was_learned_by_backpropagation_is_what_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    plan = Plan(steps=30, d_model=16, heads=2, batch=8, evaluate_every=30)
    train(grammar.write(100), folder, plan=plan)
    with serving(tmp_path) as client:
        actual = attend(client, input={"text": "The keys near it."})
    assert actual["tokens"] == ["the", "keys", "near", "it", "."]
    spec, learned = read_spec(folder).spec, load_file(folder / "model.safetensors")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    words = learned["embedding.tokens.weight"][[vocabulary[token] for token in actual["tokens"]]]
    slow = SlowStack(spec, {name: learned[name] for name in parameter_shapes(spec)})
    z, weights, _ = slow.run(words)
    np.testing.assert_allclose(actual["z"], z[0], atol=TOLERANCE)
    np.testing.assert_allclose(actual["weights"], weights[0], atol=TOLERANCE)


def test_seed_17_one_word_in_two_contexts_gets_two_vectors(repository: Path) -> None:
    """The real model: each bank is nearer to the neighbour in its own sentence."""

    def vectors(text: str, *words: str) -> list[np.ndarray]:
        output = attend(client, "minilm", input={"text": text}, outputs=["z", "hidden"])
        at = [output["tokens"].index(word) for word in words]
        return [output["z"][at[0]], *output["hidden"][at]]

    with serving(repository, "minilm") as client:
        river_z, river_bank, river = vectors("the bank of the river", "bank", "river")
        loan_z, loan_bank, loan = vectors("the bank gave me a loan", "bank", "loan")
    assert cosine(river_z, loan_z) < 0.95
    assert cosine(river_bank, river) > cosine(loan_bank, river)
    assert cosine(loan_bank, loan) > cosine(river_bank, loan)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_seed_18_heads_side_by_side_then_a_linear_transformation(tmp_path: Path) -> None:
    """A served layer of 4 heads equals each head alone through /v1/attention, joined, times W_O."""
    spec = ModelSpec(d_model=16, heads=4)
    with served(tmp_path, spec) as (client, slow):
        whole = attend(client)
        w = {name.removeprefix("layers.0.attention."): array for name, array in slow.p.items()}
        q, k, v = (X @ w[f"{name}.weight"].T + w[f"{name}.bias"] for name in ("query", "key", "value"))
        each = []
        for head in range(4):
            columns = slice(4 * head, 4 * head + 4)
            problem = {"query": q[:, columns], "key": k[:, columns], "value": v[:, columns]}
            body = {"inputs": [{name: array.tolist() for name, array in problem.items()}]}
            (alone,) = client.post("/v1/attention", json=body).json()["outputs"]
            np.testing.assert_allclose(alone["weights"], whole["weights"][head], atol=TOLERANCE)
            each.append(alone["z"])
    z = np.concatenate(each, axis=-1) @ w["output.weight"].T + w["output.bias"]
    np.testing.assert_allclose(whole["z"], z, atol=TOLERANCE)


def state_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_of_torch_multihead_attention_is_served_as_it_is(bias: bool, tmp_path: Path) -> None:
    module = torch.nn.MultiheadAttention(16, 4, bias=bias, batch_first=True).eval()
    config = {"heed": 1, "d_model": 16, "heads": 4, "projection": {"bias": bias, "output_bias": bias}}
    write(tmp_path / "it", config, state_of(module))
    memory = np.random.default_rng(1).standard_normal((7, 16), dtype=np.float32)
    with serving(tmp_path) as client:
        given = {"embeddings": X.tolist(), "memory": memory.tolist()}
        for theirs, actual in ((X, attend(client)), (memory, attend(client, input=given))):
            x, y = torch.from_numpy(X)[None], torch.from_numpy(theirs)[None]
            with torch.inference_mode():
                z, weights = module(x, y, y, average_attn_weights=False)
            np.testing.assert_allclose(actual["z"], z[0], atol=TOLERANCE)
            np.testing.assert_allclose(actual["weights"], weights[0], atol=TOLERANCE)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_state_dict_of_torch_transformer_encoder_is_served_as_it_is(
    norm_first: bool, layers: int, tmp_path: Path
) -> None:
    block = torch.nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=norm_first)
    whole = torch.nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
    module = (block if layers == 1 else whole).eval()
    config = {
        "heed": 1,
        "d_model": 16,
        "heads": 4,
        "layers": layers,
        "residual": True,
        "norm": {"kind": "layer", "placement": "pre" if norm_first else "post"},
        "feed_forward": {"d_ff": 24, "activation": "relu"},
    }
    write(tmp_path / "it", config, state_of(module))
    with serving(tmp_path) as client, torch.inference_mode():
        expected = module(torch.from_numpy(X)[None])[0]
        np.testing.assert_allclose(attend(client, outputs=["hidden"])["hidden"], expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head": 4}, "head"),
        ({"attention": {"causl": True}}, "attention.'causl'"),
        ({"heads": 5}, "heads"),
        ({"positions": {"kind": "rotary", "rotary_fraction": 2.0}}, "rotary_fraction"),
        ({"projection": {"value": "key"}, "d_v": 3}, "value"),
        ({"heed": 2}, "2"),
        ({"d_model": "16"}, "d_model"),
    ],
)
def test_specification_that_is_unknown_or_contradicts_itself_is_not_served(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    tensors = random_parameters(ModelSpec(d_model=16, heads=4))
    write(tmp_path / "it", {"heed": 1, "d_model": 16, "heads": 4} | change, tensors)
    with pytest.raises(SpecError) as refused:
        TorchRuntime(tmp_path, models=("it",), device="cpu", dtype="float32")
    assert said in str(refused.value)
