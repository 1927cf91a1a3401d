import pytest
import torch
from safetensors.torch import save_file

from models.errors import SpecError
from models.folders.naming import HEED, Naming, Rule, rules
from models.folders.parameters import optional_shapes, parameter_shapes
from models.folders.weights import load_weights
from models.spec import EmbeddingSpec, FeedForwardSpec, ModelSpec, NormSpec, PositionSpec, ProjectionSpec

WHOLE = ModelSpec(
    d_model=8,
    heads=2,
    layers=12,
    projection=ProjectionSpec(key="mlp", qk_norm="layer"),
    positions=PositionSpec(kind="relative", table=True, max_positions=4),
    norm=NormSpec(kind="layer", placement="sandwich", final=True),
    feed_forward=FeedForwardSpec(d_ff=6, kind="gated"),
    embedding=EmbeddingSpec(vocabulary=5, types=2, norm=True, width=4),
)


def loaded(state: dict[str, torch.Tensor], spec: ModelSpec, folder) -> dict[str, torch.Tensor]:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return load_weights(folder / "model.safetensors", spec, HEED)


def test_canonical_names_stand_for_themselves():
    for name in parameter_shapes(WHOLE) | optional_shapes(WHOLE):
        found = HEED.find(name)
        assert found is not None
        assert found[1] == (name,)


ALMOST = """
layers.0.attention.query
layers.01.attention.query.weight
layers.-1.attention.query.weight
layers.0.attention.query.weight.weight
xlayers.0.attention.query.weight
layers.9999999.attention.query.weight
layersx0.attention.query.weight
embedding.norm.scale
"""


@pytest.mark.parametrize("name", [*ALMOST.split("\n"), "layers.0.attention.query.weight\n"])
def test_names_that_are_almost_right_are_unexpected(name, tmp_path):
    spec = ModelSpec(d_model=8, heads=2)
    state = {right: torch.ones(shape) for right, shape in parameter_shapes(spec).items()}
    with pytest.raises(SpecError, match="unexpected"):
        loaded(state | {name: torch.ones(8, 8)}, spec, tmp_path)


def test_a_multihead_attention_of_torch_loads_as_it_is(tmp_path):
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    torch.nn.init.normal_(module.in_proj_bias)
    parameters = loaded(module.state_dict(), ModelSpec(d_model=8, heads=2), tmp_path)
    x = torch.randn(5, 8)
    for at, name in enumerate(("query", "key", "value")):
        weight, bias = (parameters[f"layers.0.attention.{name}.{part}"] for part in ("weight", "bias"))
        expected = torch.nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)[
            at
        ]
        torch.testing.assert_close(torch.nn.functional.linear(x, weight, bias), expected)
    assert torch.equal(parameters["layers.0.attention.output.weight"], module.out_proj.weight)


def test_a_multihead_attention_of_torch_without_biases_loads(tmp_path):
    module = torch.nn.MultiheadAttention(8, 2, bias=False)
    spec = ModelSpec(d_model=8, heads=2, projection=ProjectionSpec(bias=False, output_bias=False))
    assert loaded(module.state_dict(), spec, tmp_path).keys() == parameter_shapes(spec).keys()
    with pytest.raises(SpecError, match=r"missing layers.0.attention.query.bias"):
        loaded(module.state_dict(), ModelSpec(d_model=8, heads=2), tmp_path)


def test_separate_projections_of_torch_load_where_their_widths_are_the_models(tmp_path):
    whole = torch.nn.MultiheadAttention(8, 2).state_dict()
    query, key, value = whole.pop("in_proj_weight").chunk(3)
    apart = whole | {"q_proj_weight": query, "k_proj_weight": key, "v_proj_weight": value}
    parameters = loaded(apart, ModelSpec(d_model=8, heads=2), tmp_path)
    assert torch.equal(parameters["layers.0.attention.key.weight"], key)


def test_keys_of_another_width_are_refused_by_shape(tmp_path):
    module = torch.nn.MultiheadAttention(8, 2, kdim=6, vdim=6)
    with pytest.raises(SpecError, match=r"'k_proj_weight' has shape \[8, 6\], not \[8, 8\]"):
        loaded(module.state_dict(), ModelSpec(d_model=8, heads=2), tmp_path)


def test_biases_added_to_keys_are_refused(tmp_path):
    module = torch.nn.MultiheadAttention(8, 2, add_bias_kv=True)
    with pytest.raises(SpecError, match="unexpected 'bias_k'"):
        loaded(module.state_dict(), ModelSpec(d_model=8, heads=2), tmp_path)


def encoder_spec(layers: int, *, final: bool = False) -> ModelSpec:
    return ModelSpec(
        d_model=8,
        heads=2,
        layers=layers,
        norm=NormSpec(kind="layer", final=final),
        residual=True,
        feed_forward=FeedForwardSpec(d_ff=12, activation="relu"),
    )


def test_an_encoder_layer_of_torch_loads_as_it_is(tmp_path):
    module = torch.nn.TransformerEncoderLayer(8, 2, dim_feedforward=12)
    for tensor in module.parameters():
        torch.nn.init.normal_(tensor)
    parameters = loaded(module.state_dict(), encoder_spec(1), tmp_path)
    assert parameters.keys() == parameter_shapes(encoder_spec(1)).keys()
    assert torch.equal(parameters["layers.0.feed_forward.up.weight"], module.linear1.weight)
    assert torch.equal(parameters["layers.0.feed_forward.down.bias"], module.linear2.bias)
    assert torch.equal(parameters["layers.0.attention_norm.weight"], module.norm1.weight)
    assert torch.equal(parameters["layers.0.feed_forward_norm.bias"], module.norm2.bias)


def test_an_encoder_of_torch_loads_as_it_is(tmp_path):
    layer = torch.nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)
    module = torch.nn.TransformerEncoder(layer, 11, norm=torch.nn.LayerNorm(8), enable_nested_tensor=False)
    for tensor in module.parameters():
        torch.nn.init.normal_(tensor)
    spec = encoder_spec(11, final=True)
    parameters = loaded(module.state_dict(), spec, tmp_path)
    assert parameters.keys() == parameter_shapes(spec).keys()
    assert torch.equal(
        parameters["layers.10.attention.output.weight"], module.layers[10].self_attn.out_proj.weight
    )
    assert torch.equal(parameters["final_norm.bias"], module.norm.bias)


def test_a_prefix_is_dropped_once_and_what_is_ignored_may_carry_it():
    naming = Naming(rules=rules({"a.{n}.*": "layers.{n}.*"}), prefixes=("model.",), ignored=(r"pooler\..*",))
    assert naming.find("model.a.3.weight") == (Rule("a.{n}.*", ("layers.{n}.*",)), ("layers.3.weight",))
    assert naming.find("model.model.a.3.weight") is None
    assert naming.ignores("model.pooler.dense.weight")
    assert naming.ignores("pooler.dense.weight")
    assert not naming.ignores("a.3.weight")


def test_gamma_and_beta_are_weight_and_bias():
    naming = Naming(rules=rules({"norm.*": "final_norm.*"}))
    assert [naming.find(f"norm.{part}")[1][0] for part in ("gamma", "beta", "weight", "bias")] == [
        *("final_norm.weight", "final_norm.bias", "final_norm.weight", "final_norm.bias")
    ]
