import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import SpecError
from models.folders.naming import HEED, Naming, Rule
from models.folders.parameters import parameter_shapes
from models.folders.weights import check_weights, load_weights, weight_bytes
from models.mechanism import ProjectionSpec
from models.spec import EmbeddingSpec, ModelSpec

PLAIN = ModelSpec(d_model=8, heads=2)
ATTENTION = {
    **{f"layers.0.attention.{name}.weight": (8, 8) for name in ("query", "key", "value", "output")},
    **{f"layers.0.attention.{name}.bias": (8,) for name in ("query", "key", "value", "output")},
}


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=chance) for name, shape in shapes.items()}


def stored(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def refusal(path: Path, spec: ModelSpec = PLAIN, **options: object) -> str:
    with pytest.raises(SpecError) as refused:
        load_weights(path, spec, HEED, **options)
    assert len(str(refused.value)) < 2000
    return str(refused.value)


def test_weights_are_read_as_they_were_written(tmp_path):
    tensors = random(ATTENTION)
    loaded = load_weights(stored(tensors, tmp_path), PLAIN, HEED)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_file_overwritten_in_place_does_not_change_what_was_loaded(tmp_path):
    tensors = random(ATTENTION)
    path = stored(tensors, tmp_path)
    loaded = load_weights(path, PLAIN, HEED)
    with path.open("r+b") as file:
        file.seek(-path.stat().st_size // 2, 2)
        file.write(b"\xff" * (path.stat().st_size // 2))
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_converted_to_the_dtype_asked_for(tmp_path, dtype):
    tensors = {name: tensor.double() for name, tensor in random(ATTENTION).items()}
    path = stored(tensors, tmp_path)
    loaded = load_weights(path, PLAIN, HEED, dtype=dtype)
    assert all(torch.equal(loaded[name], tensors[name].to(dtype)) for name in tensors)
    assert weight_bytes(path, dtype=dtype) == sum(tensor.nbytes for tensor in loaded.values())


def test_weights_keep_their_own_dtype_by_default_but_float64(tmp_path):
    tensors = random(ATTENTION)
    tensors["layers.0.attention.key.bias"] = tensors["layers.0.attention.key.bias"].half()
    tensors["layers.0.attention.value.bias"] = tensors["layers.0.attention.value.bias"].double()
    path = stored(tensors, tmp_path)
    loaded = load_weights(path, PLAIN, HEED)
    assert loaded["layers.0.attention.key.bias"].dtype == torch.float16
    assert loaded["layers.0.attention.value.bias"].dtype == torch.float32
    assert weight_bytes(path) == sum(tensor.nbytes for tensor in loaded.values())


def test_missing_unexpected_and_misshapen_tensors_are_all_named(tmp_path):
    tensors = random(ATTENTION)
    del tensors["layers.0.attention.key.bias"]
    tensors["layers.0.attention.query.weight"] = torch.zeros(8, 9)
    tensors["stranger"] = torch.zeros(1)
    said = refusal(stored(tensors, tmp_path))
    assert "missing layers.0.attention.key.bias" in said
    assert "'layers.0.attention.query.weight' has shape [8, 9], not [8, 8]" in said
    assert "unexpected 'stranger'" in said


def test_a_layer_beyond_the_model_is_unexpected(tmp_path):
    deeper = random(parameter_shapes(ModelSpec(d_model=8, heads=2, layers=2)))
    assert "unexpected 'layers.1.attention.query.weight'" in refusal(stored(deeper, tmp_path))


def test_at_most_ten_problems_are_named(tmp_path):
    said = refusal(stored({f"{n}" * 300: torch.zeros(1) for n in range(90)}, tmp_path))
    assert said.endswith("and 88 more")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    tensors = random(ATTENTION)
    tensors["layers.0.attention.value.weight"][3, 4] = value
    assert "layers.0.attention.value.weight holds numbers that are not finite" in refusal(
        stored(tensors, tmp_path)
    )


def test_weights_that_overflow_the_dtype_asked_for_are_refused(tmp_path):
    tensors = random(ATTENTION)
    tensors["layers.0.attention.value.bias"][0] = 1e5
    path = stored(tensors, tmp_path)
    assert "float16" in refusal(path, dtype=torch.float16)
    assert load_weights(path, PLAIN, HEED)["layers.0.attention.value.bias"][0] == 1e5


def test_weights_that_are_not_floating_point_are_refused(tmp_path):
    tensors = random(ATTENTION)
    tensors["layers.0.attention.key.weight"] = torch.zeros(8, 8, dtype=torch.int8)
    assert "stored as I8" in refusal(stored(tensors, tmp_path))


def test_a_next_token_head_may_stand_in_the_file_and_is_not_loaded(tmp_path):
    spec = ModelSpec(d_model=8, embedding=EmbeddingSpec(vocabulary=5))
    shapes = parameter_shapes(spec)
    path = stored(random(shapes | {"head.weight": (5, 8)}), tmp_path)
    assert load_weights(path, spec, HEED).keys() == shapes.keys()
    assert "has shape [4, 8]" in refusal(stored(random(shapes | {"head.weight": (4, 8)}), tmp_path), spec)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (8).to_bytes(8, "little") + b'{"a":1}}'])
def test_a_file_that_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "not a whole safetensors file" in refusal(tmp_path / "model.safetensors")
    with pytest.raises(SpecError, match="not a whole safetensors file"):
        weight_bytes(tmp_path / "model.safetensors")


def test_a_file_cut_short_is_refused(tmp_path):
    path = stored(random(ATTENTION), tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "not a whole safetensors file" in refusal(path)


@pytest.mark.parametrize("kind", ["missing", "a folder"])
def test_a_file_that_is_not_there_is_refused(tmp_path, kind):
    if kind == "a folder":
        (tmp_path / "model.safetensors").mkdir()
    assert f"model.safetensors is {kind}" in refusal(tmp_path / "model.safetensors")


def test_headers_alone_tell_that_a_file_does_not_fit(tmp_path):
    path = stored(random(ATTENTION), tmp_path)
    check_weights(path, PLAIN, HEED)
    with pytest.raises(SpecError, match="missing"):
        check_weights(path, ModelSpec(d_model=8, heads=2, layers=2), HEED)


def sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    names = sorted(tensors)
    parts = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}})
    )
    return index


def test_shards_are_read_as_one_file(tmp_path):
    tensors = random(ATTENTION)
    index = sharded(tmp_path, tensors)
    loaded = load_weights(index, PLAIN, HEED)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert weight_bytes(index) == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize(
    "shard",
    [
        "../a.safetensors",
        "/etc/a.safetensors",
        "x/a.safetensors",
        ".a.safetensors",
        "a.bin",
        "",
        7,
        None,
        "a\0.safetensors",
    ],
)
def test_a_shard_must_be_a_safetensors_file_beside_its_index(tmp_path, shard):
    index = sharded(tmp_path, random(ATTENTION))
    weight_map = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**weight_map, "layers.0.attention.key.bias": shard}}))
    assert "it must be a file beside it" in refusal(index)


def test_an_index_that_does_not_tell_the_truth_is_refused(tmp_path):
    index = sharded(tmp_path, random(ATTENTION))
    weight_map = json.loads(index.read_text())["weight_map"]
    first = next(iter(weight_map))
    for lie, said in (
        ({**weight_map, first: "b.safetensors"}, "says otherwise"),
        ({**weight_map, "ghost": "b.safetensors"}, "in no shard"),
        ({**weight_map, first: "gone.safetensors"}, "missing"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": lie}))
        assert said in refusal(index)


def test_a_tensor_given_under_two_names_is_refused(tmp_path):
    both = random(ATTENTION) | {"in_proj_bias": torch.zeros(24)}
    assert "given twice" in refusal(stored(both, tmp_path))


def test_a_split_takes_rows_in_the_order_of_its_targets(tmp_path):
    spec = ModelSpec(d_model=8, heads=2, kv_heads=1, projection=ProjectionSpec(bias=False, output="identity"))
    rows = torch.arange(16.0)[:, None].expand(16, 8).contiguous()
    targets = tuple(f"layers.0.attention.{name}.weight" for name in ("query", "key", "value"))
    loaded = load_weights(stored({"fused": rows}, tmp_path), spec, Naming(rules=(Rule("fused", targets),)))
    assert [tensor[:, 0].tolist() for tensor in loaded.values()] == [
        list(range(8)),
        list(range(8, 12)),
        list(range(12, 16)),
    ]


def test_a_split_by_heads_of_unequal_parts_is_refused(tmp_path):
    spec = ModelSpec(d_model=8, heads=2, kv_heads=1, projection=ProjectionSpec(bias=False, output="identity"))
    targets = tuple(f"layers.0.attention.{name}.weight" for name in ("query", "key", "value"))
    naming = Naming(rules=(Rule("fused", targets, split="per_head"),))
    with pytest.raises(SpecError, match="fused"):
        load_weights(stored({"fused": torch.zeros(16, 8)}, tmp_path), spec, naming)
