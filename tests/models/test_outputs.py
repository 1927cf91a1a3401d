import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.attention.asked import by_layer
from models.outputs import (
    ALIASES,
    DTYPES,
    NEEDS,
    OUTPUTS,
    Mix,
    Selection,
    expand,
    made_of,
)
from models.shapes import Dims, key_heads_of, nbytes, shape_of

ROOT = Path(__file__).parents[2]
DIMS = Dims(T=5, S=7, heads=4, key_heads=2, d_z=16, d_k=3, d_v=6, words=9)

# The contract's table, T=5 S=7 H=4 G=2 d_model=16 d_k=3 d_v=6 k=3.
SHAPES = {
    "z": (5, 16),
    "z_heads": (4, 5, 6),
    "weights": (4, 5, 7),
    "weights_mean": (5, 7),
    "weights_max": (5, 7),
    "top_k_keys": (4, 5, 3),
    "top_k_weights": (4, 5, 3),
    "top_k_rest": (4, 5),
    "received": (4, 7),
    "entropy": (4, 5),
    "lse": (4, 5),
    "scores": (4, 5, 7),
    "queries": (4, 5, 3),
    "keys": (2, 7, 3),
    "values": (2, 7, 6),
    "mixed": (5, 7),
    "share": (4, 5),
    "head_profile": (4, 6),
    "value_norms": (4, 5, 7),
    "output_norms": (4, 5, 7),
    "rollout": (5, 7),
    "embedded": (5, 16),
    "mid": (5, 16),
    "feed_forward": (5, 16),
    "residual": (5, 16),
    "hidden": (5, 16),
    "pooled": (16,),
    "next_ids": (5, 3),
    "next_logprobs": (5, 3),
    "logprobs": (5,),
}
EVERYTHING = Selection(outputs=tuple(SHAPES), top_k=3, mix=Mix(pairs=((0, 1),), weights=(1.0,)))


def shapes(selection: Selection, dims: Dims = DIMS) -> dict[str, tuple[int, ...]]:
    return {name: shape_of(name, selection, dims) for name in OUTPUTS}


def test_every_output_has_the_shape_of_the_contract():
    assert shapes(EVERYTHING) == SHAPES


def test_a_list_of_layers_comes_first_in_every_output_but_those_of_no_one_layer():
    layered = shapes(replace(EVERYTHING, layers=(0, 2), layer_axis=True))
    of_none = ("rollout", "embedded", "mixed")
    assert layered == {name: shape if name in of_none else (2, *shape) for name, shape in SHAPES.items()}


def test_one_layer_in_a_list_keeps_its_axis():
    assert shape_of("z", replace(EVERYTHING, layers=(3,), layer_axis=True), DIMS) == (1, 5, 16)


def test_pairs_are_the_axis_of_what_has_heads_and_bring_their_layers():
    pairs = ((3, 1), (0, 0), (3, 2))
    chosen = replace(EVERYTHING, layers=(0, 2), layer_axis=True, pairs=pairs)
    for name, shape in SHAPES.items():
        of_pairs = (3, *shape[1:]) if OUTPUTS[name].axes[0] in "HG" else shape
        layered = OUTPUTS[name].layered and not OUTPUTS[name].of_heads
        assert shape_of(name, chosen, DIMS) == ((2, *shape) if layered else of_pairs), name
    assert shape_of("weights", replace(chosen, spans=((0, 2), (2, 3))), DIMS) == (3, 2, 2)
    assert shape_of("weights_mean", chosen, DIMS) == (5, 7)


def test_only_layers_of_pairs_and_of_what_has_no_heads_are_asked():
    pairs = ((3, 1), (1, 0), (3, 2))
    heads_alone = Selection(outputs=("weights", "weights_mean"), layers=(5,), pairs=pairs)
    assert [*by_layer(heads_alone)] == [1, 3]
    both = replace(heads_alone, outputs=("weights", "z", "embedded"))
    asked = by_layer(both)
    assert [*asked] == [1, 3, 5]
    of_three = replace(both, heads=(1, 2), layers=(3,), pairs=((3, 1), (3, 2)), outputs=("weights",))
    assert asked[3].selection == of_three
    assert asked[5].selection.outputs == ("z",)
    assert by_layer(replace(both, outputs=("embedded",))) == {}


def test_mixtures_bring_the_layers_of_their_own_pairs():
    mix = Mix(pairs=((3, 1), (1, 0), (3, 2)), weights=(0.5, 2.0, -1.0), reduce="sum")
    chosen = Selection(outputs=("mixed", "lse"), layers=(0,), heads=(2,), mix=mix)
    asked = by_layer(chosen)
    assert [*asked] == [0, 1, 3]
    assert [one.selection.outputs for one in asked.values()] == [("lse",), ("mixed",), ("mixed",)]
    of_three = replace(mix, pairs=((3, 1), (3, 2)), weights=(0.5, -1.0))
    assert asked[3].selection.mix == of_three


@pytest.mark.parametrize(
    ("changes", "rows", "shape"),
    [
        ({}, None, (5, 7)),
        ({}, (4, 0), (2, 7)),
        ({"columns": ((0, 2), (1, 7), (3, 3))}, (4, 0), (2, 3)),
        ({"reduce": "mean"}, (4, 0), (7,)),
        ({"columns": ((0, 2),), "reduce": "sum"}, None, (1,)),
        ({"skip": (1, 2)}, None, (2, 4)),
        ({"symmetric": True}, None, (5, 7)),
    ],
)
def test_a_mixture_has_the_shape_of_what_is_left_of_it(changes, rows, shape):
    mix = Mix(pairs=((0, 1), (2, 0)), weights=(1.0, 1.0), **changes)
    chosen = Selection(outputs=("mixed",), layers=(0, 1), layer_axis=True, rows=rows, mix=mix)
    assert shape_of("mixed", chosen, DIMS) == shape
    assert nbytes(replace(chosen, dtype="float16"), DIMS) == 2 * int(np.prod(shape))


def test_chosen_heads_stand_for_all_heads():
    chosen = shapes(replace(EVERYTHING, heads=(0, 3, 2)))
    for name, shape in SHAPES.items():
        assert chosen[name] == ((3, *shape[1:]) if OUTPUTS[name].axes[0] == "H" else shape)


def test_stored_key_heads_are_those_that_the_chosen_heads_read():
    assert [key_heads_of(heads, DIMS) for heads in (None, (0,), (0, 1), (1, 2), (3, 3), ())] == [
        2,
        1,
        1,
        2,
        1,
        0,
    ]
    assert shape_of("keys", replace(EVERYTHING, heads=(0, 1)), DIMS) == (1, 7, 3)


def test_chosen_rows_stand_for_all_queries_and_leave_the_keys():
    chosen = shapes(replace(EVERYTHING, rows=(4, 0)))
    for name, shape in SHAPES.items():
        assert chosen[name] == tuple(
            2 if axis == "T" else size for axis, size in zip(OUTPUTS[name].axes, shape, strict=True)
        )


def test_no_more_keys_are_ranked_than_there_are():
    assert shape_of("top_k_keys", replace(EVERYTHING, top_k=100), DIMS) == (4, 5, 7)


def test_spans_change_weights_and_vectors_alone():
    spanned = shapes(replace(EVERYTHING, spans=((0, 2), (2, 3), (3, 5))))
    assert spanned == SHAPES | {"weights": (4, 3, 3), "pooled": (3, 16)}


def test_vectors_of_the_callers_own_values_keep_their_head_axis():
    own = replace(DIMS, z_heads=True, d_z=6)
    assert shape_of("z", EVERYTHING, own) == (4, 5, 6)
    assert shape_of("z", replace(EVERYTHING, heads=(1,), rows=(0, 1)), own) == (1, 2, 6)


def test_without_a_head_axis_in_none_comes_out():
    flat = Dims(T=5, S=7, heads=1, key_heads=1, d_z=6, d_k=3, d_v=6, head_axis=False, z_heads=True)
    found = shapes(EVERYTHING, flat)
    assert (found["z"], found["weights"], found["keys"], found["lse"]) == ((5, 6), (5, 7), (7, 3), (5,))
    assert found["top_k_weights"] == (5, 3)


def test_aliases_are_spelled_out_in_place_and_each_output_stands_once():
    assert expand(["z", "top_k", "top_k_rest", "z"]) == ("z", "top_k_keys", "top_k_weights", "top_k_rest")
    assert expand([]) == ()
    assert expand(["unheard_of"]) == ("unheard_of",)


def test_an_output_is_in_a_selection_when_asked_for():
    assert "z" in Selection(outputs=("z",))
    assert "weights" not in Selection(outputs=("z",))


def test_every_output_is_made_of_one_thing_and_what_it_needs_can_be_told():
    sources = {output.of for output in OUTPUTS.values()}
    assert sorted(name for source in sources for name in made_of(source)) == sorted(OUTPUTS)
    assert made_of("norms", "input") == {"value_norms", "output_norms", "embedded"}
    assert {output.needs for output in OUTPUTS.values()} == {"", *NEEDS}


def test_a_selection_needs_layers_up_to_its_last_and_none_for_what_enters_the_first():
    assert [*by_layer(replace(EVERYTHING, layers=(1, 3, 0)))] == [0, 1, 3]
    assert by_layer(Selection(outputs=("embedded",), layers=(3,))) == {}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("z", "[T, d_model]"),
        ("top_k_keys", "[H, T, k]"),
        ("keys", "[H_kv, S, d_k]"),
        ("values", "[H_kv, S, d_v]"),
        ("head_profile", "[H, 6]"),
    ],
)
def test_shapes_are_written_as_the_docs_write_them(name, written):
    assert OUTPUTS[name].shape == written


def test_only_positions_of_keys_and_words_are_integers():
    integers = [name for name, output in OUTPUTS.items() if output.dtype == "int32"]
    assert integers == ["top_k_keys", "next_ids"]


def test_words_are_ranked_by_how_many_there_are_and_targets_are_an_axis():
    chosen = replace(EVERYTHING, top_k=100, targets=(4, 2))
    assert shape_of("next_ids", chosen, DIMS) == shape_of("next_logprobs", chosen, DIMS) == (5, 9)
    assert shape_of("logprobs", chosen, DIMS) == (5, 2)
    assert shape_of("logprobs", replace(chosen, layers=(0, 2, 1), layer_axis=True), DIMS) == (3, 5, 2)


sizes = st.integers(0, 9)
choices = st.none() | st.lists(st.integers(0, 3), max_size=4).map(tuple)


@given(
    dims=st.builds(
        Dims,
        T=sizes,
        S=sizes,
        heads=st.just(4),
        key_heads=st.sampled_from([1, 2, 4]),
        d_z=sizes,
        d_k=sizes,
        d_v=sizes,
        head_axis=st.booleans(),
        z_heads=st.booleans(),
    ),
    selection=st.builds(
        Selection,
        outputs=st.lists(st.sampled_from(sorted(OUTPUTS)), unique=True).map(tuple),
        layers=st.lists(st.integers(0, 5), min_size=1).map(tuple),
        layer_axis=st.booleans(),
        heads=choices,
        rows=choices,
        top_k=st.integers(1, 12),
        dtype=st.sampled_from(sorted(DTYPES)),
        mix=st.just(EVERYTHING.mix),
    ),
)
def test_bytes_are_those_of_the_arrays(dims, selection):
    storage = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[selection.dtype]
    arrays = [
        np.empty(shape_of(name, selection, dims), np.int32 if OUTPUTS[name].dtype == "int32" else storage)
        for name in selection.outputs
    ]
    assert nbytes(selection, dims) == sum(array.nbytes for array in arrays)


def test_bytes_of_results_that_no_machine_could_hold_are_still_exact():
    huge = Dims(T=2**31, S=2**31, heads=2**16, key_heads=1, d_z=1, d_k=1, d_v=1)
    assert nbytes(Selection(outputs=("weights", "scores")), huge) == 2 * 4 * 2**78


def test_outputs_are_listed_in_one_place() -> None:
    """Elsewhere a list of names is derived; three beside each other may be what one function does."""
    listed = []
    folders = (ROOT / top for top in ("models", "service", "benchmarks"))
    for file in (file for folder in folders for file in folder.rglob("*.py") if file.name != "outputs.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.List | ast.Tuple | ast.Set):
                names = [one.value for one in node.elts if isinstance(one, ast.Constant)]
            elif isinstance(node, ast.Dict):
                names = [one.value for one in node.keys if isinstance(one, ast.Constant)]
            else:
                continue
            if len({*OUTPUTS, *ALIASES}.intersection(names)) > 3:
                listed.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert listed == []
