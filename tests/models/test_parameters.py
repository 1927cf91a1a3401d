import pytest

from models.folders.parameters import optional_shapes, parameter_shapes
from models.mechanism import PositionSpec, ProjectionSpec
from models.spec import EmbeddingSpec, FeedForwardSpec, ModelSpec, NormSpec

PLAIN = ModelSpec(d_model=8, heads=2)
ATTENTION = {
    **{f"layers.0.attention.{name}.weight": (8, 8) for name in ("query", "key", "value", "output")},
    **{f"layers.0.attention.{name}.bias": (8,) for name in ("query", "key", "value", "output")},
}


def test_a_bare_attention_has_four_projections():
    assert parameter_shapes(PLAIN) == ATTENTION


def test_grouped_heads_and_unequal_widths_have_the_shapes_of_their_projections():
    spec = ModelSpec(
        d_model=8, heads=4, kv_heads=2, d_k=3, d_v=5, projection=ProjectionSpec(output_bias=False)
    )
    assert parameter_shapes(spec) == {
        "layers.0.attention.query.weight": (12, 8),
        "layers.0.attention.query.bias": (12,),
        "layers.0.attention.key.weight": (6, 8),
        "layers.0.attention.key.bias": (6,),
        "layers.0.attention.value.weight": (10, 8),
        "layers.0.attention.value.bias": (10,),
        "layers.0.attention.output.weight": (8, 20),
    }


def test_identity_projections_and_values_that_are_keys_have_no_parameters():
    raw = ProjectionSpec(query="identity", key="identity", value="identity", output="identity")
    assert parameter_shapes(ModelSpec(d_model=8, heads=2, projection=raw)) == {}
    keys = ProjectionSpec(value="key", output="identity", bias=False)
    assert set(parameter_shapes(ModelSpec(d_model=8, projection=keys))) == {
        "layers.0.attention.query.weight",
        "layers.0.attention.key.weight",
    }


def test_a_perceptron_projection_has_two_layers():
    part = ProjectionSpec(query="mlp", key="identity", value="identity", output="identity")
    assert parameter_shapes(ModelSpec(d_model=8, projection=part)) == {
        "layers.0.attention.query.up.weight": (8, 8),
        "layers.0.attention.query.up.bias": (8,),
        "layers.0.attention.query.down.weight": (8, 8),
        "layers.0.attention.query.down.bias": (8,),
    }


@pytest.mark.parametrize(
    ("norm", "qk_norm", "names"),
    [
        (NormSpec(kind="layer"), "none", {"weight", "bias"}),
        (NormSpec(kind="layer", bias=False), "layer", {"weight"}),
        (NormSpec(kind="rms", bias=True), "rms", {"weight"}),
    ],
)
def test_norms_have_the_parameters_of_their_kind(norm, qk_norm, names):
    spec = ModelSpec(
        d_model=8,
        heads=2,
        norm=norm,
        projection=ProjectionSpec(qk_norm=qk_norm),
        feed_forward=FeedForwardSpec(d_ff=6),
    )
    shapes = parameter_shapes(spec)
    for at in ("attention_norm", "feed_forward_norm"):
        assert {name for name in shapes if name.startswith(f"layers.0.{at}.")} == {
            f"layers.0.{at}.{n}" for n in names
        }
        assert shapes[f"layers.0.{at}.weight"] == (8,)
    per_head = {name: shape for name, shape in shapes.items() if "_norm." in name and ".attention." in name}
    assert set(per_head.values()) == (set() if qk_norm == "none" else {(4,)})
    assert len(per_head) == (0 if qk_norm == "none" else 2)


def test_a_sandwich_has_a_norm_on_either_side_of_each_sublayer():
    norm = NormSpec(kind="rms", placement="sandwich", final=True)
    names = set(
        parameter_shapes(ModelSpec(d_model=8, norm=norm, feed_forward=FeedForwardSpec(d_ff=6, kind="gated")))
    )
    for at in ("attention_norm", "attention_norm_after", "feed_forward_norm", "feed_forward_norm_after"):
        assert f"layers.0.{at}.weight" in names
    assert "final_norm.weight" in names
    assert "layers.0.feed_forward.gate.weight" in names


def test_a_stack_without_feed_forward_has_no_norm_for_one():
    assert not any(
        "feed_forward" in name for name in parameter_shapes(ModelSpec(d_model=8, norm=NormSpec(kind="rms")))
    )


def test_an_embedding_has_tables_of_its_own_width_and_is_widened():
    spec = ModelSpec(
        d_model=8,
        embedding=EmbeddingSpec(vocabulary=30, types=2, norm=True, width=6),
        positions=PositionSpec(kind="learned", max_positions=10, offset=2),
    )
    shapes = {name: shape for name, shape in parameter_shapes(spec).items() if name.startswith("embedding")}
    assert shapes == {
        "embedding.tokens.weight": (30, 6),
        "embedding.types.weight": (2, 6),
        "embedding.positions.weight": (12, 6),
        "embedding.norm.weight": (6,),
        "embedding.norm.bias": (6,),
        "embedding.widen.weight": (8, 6),
        "embedding.widen.bias": (8,),
    }
    assert optional_shapes(spec) == {"head.weight": (30, 8)}


def test_relative_positions_have_a_bias_and_may_have_a_table():
    bias = PositionSpec(kind="relative", buckets=32)
    assert parameter_shapes(ModelSpec(d_model=8, heads=2, positions=bias))["positions.bias.weight"] == (32, 2)
    both = parameter_shapes(
        ModelSpec(d_model=8, positions=PositionSpec(kind="relative", table=True, max_positions=10, offset=2))
    )
    assert both["embedding.positions.weight"] == (12, 8)


def test_positions_that_are_computed_have_no_parameters():
    for kind in ("none", "sinusoidal", "rotary", "alibi"):
        assert parameter_shapes(ModelSpec(d_model=8, positions=PositionSpec(kind=kind))) == ATTENTION
