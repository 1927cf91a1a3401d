import json
import math
from dataclasses import fields, replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import LARGEST
from models.encoder.mlp import ACTIVATIONS
from models.errors import SpecError
from models.mechanism import (
    ActivationName,
    AttentionSpec,
    PositionSpec,
    ProjectionSpec,
    RotarySpec,
    ScalingSpec,
)
from models.pooling_spec import PoolingSpec, PoolingStep, PredictionSpec
from models.spec import EmbeddingSpec, FeedForwardSpec, ModelSpec, NormSpec

WHOLE = ModelSpec(
    d_model=12,
    heads=6,
    layers=2,
    kv_heads=3,
    d_k=4,
    d_v=5,
    attention=AttentionSpec(similarity="cosine", scale=0.5, causal=True, causal_offset=-3, softcap=30.0),
    projection=ProjectionSpec(query="mlp", bias=False, qk_norm="rms", activation="silu"),
    positions=PositionSpec(kind="rotary", max_positions=64, theta=5e5, rotary_fraction=0.5, interleaved=True),
    norm=NormSpec(kind="rms", placement="pre", eps=1e-6, unit_offset=True, final=True, skip_first=True),
    residual=True,
    feed_forward=FeedForwardSpec(d_ff=20, kind="gated", activation="gelu_tanh", bias=False),
    embedding=EmbeddingSpec(vocabulary=9, types=2, norm=True, scale=3.5, width=6, widened=True),
    pooling=PoolingSpec(modes=("last",), steps=(PoolingStep(kind="normalize"),)),
    windows=(None, 7),
    right_windows=(2, None),
    rotary=(None, RotarySpec(theta=3e4, scaling=ScalingSpec(kind="linear", factor=2.0))),
    tied_output=True,
    prediction=PredictionSpec(
        activation="relu",
        dense_bias=False,
        norm_bias=False,
        eps=1e-3,
        bias=True,
        scale=0.5,
        softcap=9.0,
    ),
)


def refusal(config: object, match: str) -> str:
    with pytest.raises(SpecError, match=match) as refused:
        ModelSpec.from_config(config)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 500
    return str(refused.value)


def scaled(scaling: object, *, d_model: int = 8, theta: float = 1e4) -> object:
    return {"d_model": d_model, "positions": {"kind": "rotary", "theta": theta, "scaling": scaling}}


@pytest.mark.parametrize("spec", [ModelSpec(d_model=8), WHOLE], ids=["least", "whole"])
def test_a_configuration_reads_back_to_an_equal_specification(spec):
    assert ModelSpec.from_config(json.loads(json.dumps(spec.to_config()))) == spec


def test_every_field_of_the_whole_specification_differs_from_its_default():
    least = ModelSpec(d_model=8)
    same = {one.name for one in fields(ModelSpec) if getattr(WHOLE, one.name) == getattr(least, one.name)}
    assert same == {"parallel", "shared"}


def test_the_first_key_of_a_configuration_is_heed():
    assert next(iter(WHOLE.to_config().items())) == ("heed", 1)


@pytest.mark.parametrize("version", [2, 0, True, "1", None, 1.0, []])
def test_another_version_of_the_format_is_refused(version):
    refusal({"heed": version, "d_model": 8}, "heed is")


def test_defaults_follow_from_heads():
    spec = ModelSpec(d_model=12, heads=3)
    assert (spec.key_heads, spec.key_width, spec.value_width) == (3, 4, 4)
    assert (WHOLE.key_heads, WHOLE.key_width, WHOLE.value_width) == (3, 4, 5)
    assert replace(WHOLE, d_v=None).value_width == 4


def test_a_layers_window_takes_the_place_of_the_models():
    spec = replace(WHOLE, attention=AttentionSpec(left_window=2, right_window=9), windows=(None, 7))
    windows = [(rule.left_window, rule.right_window) for rule in map(spec.attention_of, (0, 1))]
    assert windows == [(None, 2), (7, None)]
    none = replace(spec, windows=None, right_windows=None)
    assert none.attention_of(1) is none.attention


def test_layers_that_share_parameters_have_them_once():
    spec = ModelSpec(d_model=8, layers=4, shared=(0, 1, 1, 0))
    assert (spec.parameter_sets, [spec.parameters_of(layer) for layer in range(4)]) == (2, [0, 1, 1, 0])
    assert ModelSpec(d_model=8, layers=4).parameter_sets == 4


def test_a_layer_turns_as_the_model_says_but_where_it_has_a_base_of_its_own():
    assert WHOLE.rotary_of(0) == RotarySpec(theta=5e5)
    assert WHOLE.rotary_of(1) == RotarySpec(theta=3e4, scaling=ScalingSpec(kind="linear", factor=2.0))


def test_cosines_have_the_papers_magnitude_unless_one_is_given():
    yarn = ScalingSpec(kind="yarn", factor=math.e, original_positions=8)
    assert yarn.magnitude == pytest.approx(1.1)
    assert replace(yarn, attention_factor=0.5).magnitude == 0.5
    assert replace(yarn, factor=0.5).magnitude == replace(yarn, kind="linear").magnitude == 1
    assert replace(yarn, kind="longrope", factor=64).magnitude == pytest.approx(math.sqrt(3))


def test_a_layer_is_more_than_attention_with_a_residual_a_norm_or_a_feed_forward():
    assert not ModelSpec(d_model=8).blocks
    assert ModelSpec(d_model=8, residual=True).blocks
    assert ModelSpec(d_model=8, norm=NormSpec(kind="rms")).blocks
    assert ModelSpec(d_model=8, feed_forward=FeedForwardSpec(d_ff=4)).blocks


def test_the_default_scale_is_that_of_the_similarity():
    assert AttentionSpec().scale_for(16) == 0.25
    assert AttentionSpec(similarity="cosine").scale_for(16) == 1.0
    assert AttentionSpec(scale=0.0).scale_for(16) == 0.0


@pytest.mark.parametrize(
    "rule", [{"causal": True}, {"exclude_self": True}, {"left_window": 0}, {"right_window": 0}]
)
def test_a_rule_that_looks_at_places_is_positional(rule):
    assert AttentionSpec(**rule).positional
    assert not AttentionSpec(scale=2.0, softcap=1.0, add_self=True).positional


def test_a_learned_table_has_rows_for_its_offset():
    assert PositionSpec(kind="learned", max_positions=512, offset=2).rows == 514
    assert PositionSpec(kind="relative", max_positions=512, table=True).rows == 512
    assert PositionSpec(kind="rotary", max_positions=512).rows == 0


def test_activations_are_those_that_run():
    assert set(get_args(ActivationName)) == set(ACTIVATIONS)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({}, "d_model is missing"),
        ({"d_model": 8, "embedding": {}}, r"embedding\.vocabulary is missing"),
        ({"d_model": 8, "hedas": 2}, "unknown field 'hedas'; known here: d_model, heads"),
        ({"d_model": 8, "attention": {"x" * 10_000: 1}}, r"unknown field attention\.'xxx"),
        ({"d_model": 8, "attention": []}, "attention must be an object"),
        ({"d_model": 8, "norm": None}, "norm must be an object"),
        ({"d_model": "8"}, "d_model is '8'; it must be of type int"),
        ({"d_model": 8.0}, "d_model is 8.0"),
        ({"d_model": True}, "d_model is True"),
        ({"d_model": None}, "d_model is None"),
        ({"d_model": "x" * 10**6}, "d_model is 'xxx"),
        ({"d_model": LARGEST + 1}, "d_model is beyond"),
        ({"d_model": 10**400}, "d_model is beyond"),
        ({"d_model": 8, "residual": 1}, "residual is 1; it must be of type bool"),
        ({"d_model": 8, "windows": 3}, "windows must be a list"),
        ({"d_model": 8, "windows": [2.5]}, r"windows\[0\] is 2.5"),
        ({"d_model": 8, "attention": {"similarity": "euclid"}}, "choose one of dot, cosine"),
        ({"d_model": 8, "attention": {"similarity": ["dot"]}}, "similarity is"),
        ({"d_model": 8, "attention": {"scale": True}}, "scale is True"),
        ({"d_model": 8, "attention": {"scale": "1"}}, "scale is '1'"),
        ({"d_model": 8, "attention": {"scale": 10**400}}, "scale is beyond"),
        ({"d_model": 8, "attention": {"scale": math.inf}}, "scale is inf"),
        ({"d_model": 8, "attention": {"scale": 1e308}}, "attention.scale is beyond"),
        ({"d_model": 8, "attention": {"softcap": 3.5e38}}, "attention.softcap is beyond"),
        ({"d_model": 8, "embedding": {"vocabulary": 9, "scale": -1e300}}, "embedding.scale is beyond"),
        ({"d_model": 8, "norm": {"eps": 1e39}}, "norm.eps is beyond"),
        ({"d_model": 8, "norm": {"eps": math.nan}}, "eps is nan"),
        ({"d_model": 8, "projection": {"activation": "swoosh"}}, r"activation is 'swoosh'"),
    ],
)
def test_a_field_that_is_unknown_missing_or_ill_typed_is_named(config, named):
    refusal(config, named)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"d_model": 0}, "d_model is 0"),
        ({"d_model": -8}, "d_model is -8"),
        ({"d_model": 8, "heads": 0}, "heads is 0"),
        ({"d_model": 8, "heads": 3}, "d_model 8 is not a multiple of heads 3"),
        ({"d_model": 8, "heads": 4, "kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"d_model": 8, "kv_heads": 0}, "kv_heads is 0"),
        ({"d_model": 8, "d_k": 0}, "d_k is 0"),
        ({"d_model": 8, "layers": 0}, "layers is 0"),
        ({"d_model": 8, "layers": 5000}, "layers is 5000; give a number from 1 to 4096"),
        ({"d_model": 8, "layers": 2, "windows": [1]}, "windows has 1 entries for 2 layers"),
        ({"d_model": 8, "windows": [-1]}, r"windows\[0\] is -1"),
        ({"d_model": 8, "right_windows": [None, 2]}, "right_windows has 2 entries for 1 layers"),
        ({"d_model": 8, "d_k": 3, "projection": {"query": "identity"}}, "projection.query is identity"),
        ({"d_model": 8, "heads": 2, "kv_heads": 1, "projection": {"key": "identity"}}, "key is identity"),
        ({"d_model": 8, "d_v": 5, "projection": {"output": "identity"}}, "output is identity"),
        ({"d_model": 8, "d_v": 5, "projection": {"value": "key"}}, "value is key"),
        ({"d_model": 8, "attention": {"left_window": -1}}, "left_window is -1"),
        ({"d_model": 8, "attention": {"right_window": -1}}, "right_window is -1"),
        ({"d_model": 8, "attention": {"softcap": 0}}, "softcap is 0"),
        ({"d_model": 8, "attention": {"softcap": -1.5}}, "softcap is -1.5"),
        ({"d_model": 8, "attention": {"softcap": 1e-300}}, "softcap is 1e-300"),
        ({"d_model": 8, "attention": {"add_self": True, "causal_offset": 1}}, "causal_offset 0"),
        ({"d_model": 8, "positions": {"kind": "learned"}}, "max_positions is missing"),
        ({"d_model": 8, "positions": {"max_positions": 0}}, "max_positions is 0"),
        ({"d_model": 8, "positions": {"offset": -1}}, "offset is -1"),
        ({"d_model": 8, "positions": {"theta": 0}}, "theta is 0"),
        ({"d_model": 8, "positions": {"kind": "rotary", "rotary_fraction": 1.5}}, "rotary_fraction is 1.5"),
        ({"d_model": 8, "positions": {"kind": "rotary", "rotary_fraction": 0.4}}, "the number must be even"),
        ({"d_model": 8, "heads": 8, "positions": {"kind": "rotary"}}, "the number must be even"),
        ({"d_model": 8, "rotary": [None]}, "positions.kind is none"),
        ({"d_model": 8, "rotary": [], "positions": {"kind": "rotary"}}, "rotary has 0 entries for 1 layers"),
        ({"d_model": 8, "positions": {"scaling": {"kind": "linear"}}}, "scaling goes with rotary"),
        (scaled({"kind": "ntk"}), "kind is 'ntk'"),
        (scaled({"kind": "linear", "factor": 0}), "scaling.factor is 0"),
        (scaled({"kind": "yarn"}), "original_positions is missing; yarn needs"),
        (scaled({"kind": "yarn", "original_positions": 1}), "original_positions is 1"),
        (scaled({"kind": "yarn", "original_positions": 9, "attention_factor": 0}), "attention_factor is 0"),
        (scaled({"kind": "yarn", "original_positions": 9}, theta=1), "yarn needs a theta other than 1"),
        (scaled({"kind": "dynamic", "original_positions": 9}, d_model=2), "dynamic scaling turns 2"),
        (
            scaled({"kind": "llama3", "original_positions": 9, "low_frequency_factor": 4}),
            "high_frequency_factor is 4.0; it must be over",
        ),
        (
            scaled({"kind": "longrope", "original_positions": 9, "short_factors": [1, 2, 3, 4]}),
            "long_factors has 0 numbers; rotary positions have 4 rates",
        ),
        (
            scaled({"kind": "longrope", "original_positions": 9, "short_factors": [1, 0]}),
            r"short_factors\[1\] is 0",
        ),
        ({"d_model": 9, "positions": {"kind": "sinusoidal"}}, "even width, not 9"),
        (
            {"d_model": 8, "positions": {"kind": "sinusoidal"}, "embedding": {"vocabulary": 3, "width": 5}},
            "even width, not 5",
        ),
        ({"d_model": 8, "positions": {"kind": "relative", "buckets": 2}}, "buckets is 2"),
        ({"d_model": 8, "positions": {"kind": "relative", "buckets": 9}}, "even number"),
        ({"d_model": 8, "positions": {"kind": "relative", "max_distance": 8}}, "max_distance is 8"),
        ({"d_model": 8, "positions": {"kind": "rotary", "table": True, "max_positions": 9}}, "table goes"),
        ({"d_model": 8, "positions": {"kind": "relative", "table": True}}, "max_positions is missing"),
        ({"d_model": 8, "norm": {"eps": -1e-5}}, "eps is -1e-05"),
        ({"d_model": 8, "norm": {"final": True}}, "norm.kind is none"),
        ({"d_model": 8, "norm": {"unit_offset": True}}, "norm.kind is none"),
        ({"d_model": 8, "norm": {"skip_first": True}}, "norm.skip_first is set"),
        ({"d_model": 8, "shared": [0, 0]}, "shared has 2 entries for 1 layers"),
        ({"d_model": 8, "layers": 3, "shared": [0, 2, 1]}, r"shared\[1\] is 2; give a number from 0 to 1"),
        ({"d_model": 8, "shared": [1]}, r"shared\[0\] is 1"),
        (
            {"d_model": 8, "shared": [0], "norm": {"skip_first": True, "kind": "rms", "placement": "pre"}},
            "norm.skip_first needs each layer",
        ),
        ({"d_model": 8, "norm": {"skip_first": True, "kind": "rms"}}, "norm.placement pre"),
        ({"d_model": 8, "feed_forward": {"d_ff": 0}}, "d_ff is 0"),
        ({"d_model": 8, "parallel": True}, "parallel is set"),
        (
            {
                "d_model": 8,
                "parallel": True,
                "residual": True,
                "norm": {"kind": "rms"},
                "feed_forward": {"d_ff": 4},
            },
            "parallel needs norm.placement pre",
        ),
        ({"d_model": 8, "embedding": {"vocabulary": 0}}, "vocabulary is 0"),
        ({"d_model": 8, "embedding": {"vocabulary": 5, "types": -1}}, "types is -1"),
        ({"d_model": 8, "embedding": {"vocabulary": 5, "width": 0}}, "width is 0"),
        ({"d_model": 8, "tied_output": True}, "no embedding"),
    ],
)
def test_fields_that_contradict_each_other_or_the_possible_are_refused(config, named):
    refusal(config, named)


def test_a_specification_checks_itself_whoever_makes_it():
    for make, named in (
        (lambda: AttentionSpec(left_window=LARGEST + 1), "left_window is"),
        (lambda: AttentionSpec(causal_offset=-LARGEST - 1), "causal_offset is"),
        (lambda: AttentionSpec(softcap=math.nan), "softcap is nan"),
        (lambda: AttentionSpec(scale=math.nan), "scale is nan"),
        (lambda: PositionSpec(theta=math.inf), "positions.theta is inf"),
        (lambda: EmbeddingSpec(vocabulary=5, scale=math.inf), "embedding.scale is inf"),
        (lambda: ModelSpec(d_model=LARGEST + 1), "d_model is"),
    ):
        with pytest.raises(SpecError, match=named):
            make()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_whatever_stands_in_a_field_it_is_read_or_refused(data):
    config = WHOLE.to_config()
    at = data.draw(
        st.sampled_from([config, *(value for value in config.values() if isinstance(value, dict))])
    )
    at[data.draw(st.sampled_from([*at, "stranger"]))] = data.draw(json_values)
    try:
        spec = ModelSpec.from_config(config)
    except SpecError as refused:
        assert len(str(refused)) < 500  # noqa: PT017 - either outcome is right
    else:
        assert ModelSpec.from_config(spec.to_config()) == spec
