"""From a checked request to Items: numbers counted from the end, shapes compared, misfits refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import TextError
from models.halves import BFLOAT16, widened
from models.outputs import NEEDS, OUTPUTS
from service.errors import Invalid, Malformed, TooLarge
from service.http.envelope import read_envelope
from service.http.resolve import resolve_attend, resolve_attention
from service.http.schemas import ATTENTION_OUTPUTS, AttendRequest, AttentionRequest
from service.http.texts.reading import Reading
from service.wire.dtypes import float32_to_bits
from tests.fakes import FakeRuntime, fake_card


def vectors(tokens=3, width=4):
    return np.ones((tokens, width), np.float32)


def resolved(*inputs, card=None, **options):
    card = card or fake_card()
    given_inputs = list(inputs) or [{"embeddings": vectors()}]
    asked = read_envelope(AttendRequest, {"inputs": given_inputs, **options})
    return resolve_attend(
        asked, runtime=FakeRuntime(card), how=Reading(card=card, truncate=bool(asked.truncate))
    )


def selection(*inputs, **options):
    return resolved(*inputs, **options).items[0].selection


def refusal(*inputs, error=Invalid, **options):
    with pytest.raises(error) as caught:
        resolved(*inputs, **options)
    return caught.value.message


def test_defaults_are_the_last_layer_without_an_axis_and_all_heads_and_rows():
    chosen = selection()
    assert chosen.outputs == ("z", "weights")
    assert chosen.layers == (1,)
    assert not chosen.layer_axis
    assert chosen.heads is chosen.rows is chosen.spans is None


@pytest.mark.parametrize(
    ("layers", "numbers", "axis"),
    [
        (0, (0,), False),
        (-2, (0,), False),
        ([1], (1,), True),
        ([-1, 0], (1, 0), True),
        ("all", (0, 1), True),
    ],
)
def test_layers_are_counted_from_either_end_and_lists_keep_their_axis(layers, numbers, axis):
    chosen = selection(layers=layers)
    assert (chosen.layers, chosen.layer_axis) == (numbers, axis)


def test_layers_out_of_range_or_twice_are_refused():
    assert refusal(layers=2) == "layers has 2; the model has 2 layers, from -2 to 1"
    assert refusal(layers=[0, -3]) == "layers has -3; the model has 2 layers, from -2 to 1"
    assert refusal(layers=[1, -1]) == "layers has the same one twice; give each once"


def test_outputs_are_spelled_out_and_must_be_offered():
    assert selection(outputs=["top_k", "z", "z"]).outputs == (
        "top_k_keys",
        "top_k_weights",
        "top_k_rest",
        "z",
    )
    assert refusal(outputs=["weight"]) == "outputs has 'weight', which is none; did you mean weights?"
    card = fake_card(outputs=("z", "weights"))
    assert refusal(card=card, outputs=["pooled"]) == (
        "model fake does not offer the output pooled, which needs pooling that the model's folder declares; "
        "it offers z, weights"
    )


def test_heads_are_chosen_in_the_asked_order():
    assert selection(heads=[1, 0]).heads == (1, 0)
    assert selection(heads=[0, 1]).heads is None
    assert refusal(heads=[2]) == "heads has 2; there are 2, from 0 to 1"
    assert "heads has -1" in refusal(heads=[-1])
    assert "twice" in refusal(heads=[1, 1])


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([1], (1,)),
        ([-1, 0], (2, 0)),
        ([0, 1, 2], None),
        ({"start": 1}, (1, 2)),
        ({"start": -2, "stop": -1}, (1,)),
        ({"stop": 2}, (0, 1)),
        ({}, None),
    ],
)
def test_rows_are_a_list_or_a_range_counted_from_either_end(rows, chosen):
    assert selection(rows=rows).rows == chosen


@given(start=st.integers(-5, 5), stop=st.none() | st.integers(-5, 5))
def test_a_range_of_rows_is_pythons_slice_or_refused(start, stop):
    inside = -4 <= start <= 4 and (stop is None or -4 <= stop <= 4)
    expected = tuple(range(4))[start:stop]
    ranged = {"start": start, "stop": stop}
    if inside and expected:
        rows = selection({"embeddings": vectors(4)}, rows=ranged).rows
        assert (rows or tuple(range(4))) == expected
    else:
        assert "is no range within the 4 positions of inputs[0]" in refusal(
            {"embeddings": vectors(4)}, rows=ranged
        )


def test_rows_are_checked_against_each_input():
    items = resolved({"embeddings": vectors(2)}, {"embeddings": vectors(5)}, rows=[-1]).items
    assert [item.selection.rows for item in items] == [(1,), (4,)]
    message = refusal({"embeddings": vectors(5)}, {"embeddings": vectors(2)}, rows=[3])
    assert message == "rows has 3; inputs[1] has 2 positions, from -2 to 1"


def test_spans_of_an_input_come_before_those_of_the_request():
    items = resolved(
        {"embeddings": vectors(3)}, {"embeddings": vectors(3), "spans": [[0, 3]]}, spans=[[0, 1], [1, 3]]
    ).items
    assert [item.selection.spans for item in items] == [((0, 1), (1, 3)), ((0, 3),)]


def test_spans_that_do_not_fit_are_refused():
    assert refusal(spans=[[0, 2], [2, 4]]) == (
        "spans[1] is [2, 4]; give start < end ≤ 3, the positions of inputs[0]"
    )
    assert "spans[0] is [1, 1]" in refusal(spans=[[1, 1]])
    assert "not among outputs" in refusal(spans=[[0, 1]], outputs=["z"])
    assert "leave rows or leave spans" in refusal(spans=[[0, 1]], rows=[0])
    assert "spans needs queries and keys of one sequence" in refusal(
        {"embeddings": vectors(), "memory": vectors()}, spans=[[0, 1]]
    )


def test_exactly_one_source_is_given():
    assert refusal({}) == (
        "inputs[0] must have exactly one of embeddings, token_ids and text; it has none of them"
    )
    assert "it has embeddings and text" in refusal({"embeddings": vectors(), "text": "a"})
    assert "pair, the second of two texts, without text" in refusal({"embeddings": vectors(), "pair": "a"})


def test_a_source_the_model_does_not_take_is_refused():
    card = fake_card(inputs=("embeddings",), vocabulary=None)
    assert refusal({"text": "a"}, card=card) == "inputs[0] has text; model fake takes embeddings"
    assert refusal({"token_ids": np.array([1])}, card=card).startswith("inputs[0] has token_ids")


def test_text_is_tokenized_and_kept_beside_its_item():
    outcome = resolved({"text": "a b", "pair": "c"}, {"embeddings": vectors()})
    assert outcome.texts[0].tokens == ("a", "b", "c")
    assert outcome.texts[1] is None
    assert outcome.items[0].input.ids is outcome.texts[0].ids
    assert outcome.tokens == 6


def test_a_text_over_the_models_positions_is_refused_unless_it_may_be_cut():
    long = {"text": " ".join(["w"] * 20)}
    message = refusal(long, error=TooLarge)
    assert "20 tokens" in message
    assert "set truncate" in message
    assert resolved(long, truncate=True).texts[0].truncated == 4


def test_a_sequence_over_the_models_positions_is_refused_with_both_numbers():
    with pytest.raises(TooLarge) as caught:
        resolved({"embeddings": vectors(17)})
    assert caught.value.code == "sequence_too_long"
    assert caught.value.message == "inputs[0] has 17 tokens; model fake has positions for 16"


def test_a_tokenizer_that_cannot_read_makes_the_request_invalid():
    class Deaf(FakeRuntime):
        def tokenize(self, card, text, pair=None, **limits):
            raise TextError("no such language")

    asked = read_envelope(AttendRequest, {"inputs": [{"text": "a"}]})
    with pytest.raises(Invalid, match=r"inputs\[0\]: no such language"):
        resolve_attend(asked, runtime=Deaf(), how=Reading(card=fake_card()))


def test_empty_sequences_are_refused():
    assert "empty" in refusal({"text": " "})
    assert "empty" in refusal({"token_ids": np.zeros(0, np.int64)})
    assert "empty" in refusal({"embeddings": np.zeros((0, 4), np.float32)})
    assert "empty" in refusal({"embeddings": np.zeros(0, np.float32)})
    assert "empty" in refusal({"embeddings": vectors(), "memory": np.zeros((0, 4), np.float32)})


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 0), (1, 3, 4), (1, 1, 1, 1)])
def test_embeddings_and_memory_must_be_as_wide_as_the_model(shape):
    array = np.ones(shape, np.float32)
    assert refusal({"embeddings": array}) == (
        f"inputs[0].embeddings has shape {list(shape)}; the model reads rows of 4: give [length, 4]"
    )
    assert "inputs[0].memory has shape" in refusal({"embeddings": vectors(), "memory": array})


def test_a_model_whose_words_are_narrower_reads_rows_of_their_width():
    card = fake_card(d_input=3)
    assert resolved({"embeddings": vectors(2, 3)}, card=card).items[0].input.queries == 2
    assert "rows of 3" in refusal({"embeddings": vectors(2, 4)}, card=card)


def test_a_decoder_attends_to_itself_though_it_is_given_memory():
    card = fake_card(part="decoder")
    both = {"embeddings": vectors(3), "memory": vectors(5), "mask": np.ones((3, 3), np.bool_)}
    assert resolved(both, card=card).items[0].dims.S == 3
    assert "give [3] or [3, 3]" in refusal({**both, "mask": np.ones(5, np.bool_)}, card=card)
    chosen = resolved(both, card=card, outputs=["rollout", "weights"], spans=[[0, 2]]).items[0].selection
    assert (chosen.outputs, chosen.spans) == (("rollout", "weights"), ((0, 2),))


def test_profiles_of_heads_need_tokens_of_one_sequence():
    profile = {"outputs": ["head_profile"]}
    assert "give token_ids or text" in refusal({"embeddings": vectors()}, **profile)
    ids = {"token_ids": np.array([1, 2])}
    assert refusal({**ids, "memory": vectors(3)}, **profile).endswith("has memory")
    assert selection(ids, **profile).outputs == ("head_profile",)


def test_memory_needs_a_model_with_cross_attention():
    one = {"embeddings": vectors(), "memory": vectors(5)}
    assert resolved(one).items[0].input.keys == 5
    assert "no cross-attention" in refusal(one, card=fake_card(cross=False))
    for name in ("rollout", "head_profile"):
        assert f"{name} needs queries and keys of one sequence" in refusal(one, outputs=[name])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([0, 100]), "inputs[0].token_ids[1] is 100; the vocabulary has ids from 0 to 99"),
        (np.array([-1]), "inputs[0].token_ids[0] is -1; the vocabulary has ids from 0 to 99"),
        (np.array([2**62]), "inputs[0].token_ids[0] is 4611686018427387904; the vocabulary"),
        (np.array([[1]]), "inputs[0].token_ids has shape [1, 1]; give [T]"),
        (np.array([1.0]), "inputs[0].token_ids must be integers; it is float64"),
        (np.array([True]), "inputs[0].token_ids must be integers; it is bool"),
    ],
)
def test_token_ids_must_be_of_the_vocabulary(ids, message):
    assert refusal({"token_ids": ids}).startswith(message)


def test_half_precision_stays_as_it_came():
    half = np.array([[1.5, -2, 0.25, 65504]], np.float16)
    bits = np.array([[0x3F80, 0xBF80, 0x0000, 0x4049]], np.uint16)
    for sent, numbers in ((half, [[1.5, -2, 0.25, 65504]]), (bits, [[1.0, -1.0, 0.0, 3.140625]])):
        kind = BFLOAT16 if sent is bits else np.float16
        read = resolved({"embeddings": sent, "memory": sent}).items[0].input
        for array in (read.embeddings, read.memory):
            assert array.dtype == kind
            assert np.shares_memory(array, sent)
            assert widened(array).tolist() == numbers
        asked = read_envelope(AttentionRequest, {"inputs": [dict.fromkeys(("query", "key", "value"), sent)]})
        own = resolve_attention(asked).items[0].input
        for array in (own.query, own.key, own.value):
            assert array.dtype == kind
            assert np.shares_memory(array, sent)


def test_numbers_of_edits_are_float32_whatever_was_sent():
    edit = {"edit": "pattern", "layers": "all", "value": np.full((3, 3), 0.5, np.float16)}
    (made,) = resolved({"embeddings": vectors(), "edits": [edit]}).items[0].edits
    assert made.value.dtype == np.float32
    assert np.array_equal(made.value, np.full((3, 3), 0.5))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_a_bias_may_mask_and_holds_nothing_else_that_is_not_finite(kind):
    def sent(*row):
        bias = np.array([row] * 2, np.float32)
        return float32_to_bits(bias) if kind == "bfloat16" else bias.astype(kind)

    one = {name: np.ones((2, 3), np.float32) for name in ("query", "key", "value")}
    one = {**one, "key": np.ones((3, 3), np.float32), "value": np.ones((3, 3), np.float32)}
    masked = sent(0, -np.inf, -2.5)
    asked = read_envelope(AttentionRequest, {"inputs": [{**one, "mask": masked}]})
    mask = resolve_attention(asked).items[0].input.mask
    assert mask.dtype == {"bfloat16": BFLOAT16}.get(kind, np.dtype(kind))
    assert widened(mask).tolist() == [[0, -np.inf, -2.5]] * 2
    for wrong in (np.inf, np.nan, -np.nan):
        asked = read_envelope(AttentionRequest, {"inputs": [{**one, "mask": sent(0, wrong, -np.inf)}]})
        with pytest.raises(Malformed) as caught:
            resolve_attention(asked)
        assert caught.value.message == (
            "inputs[0].mask holds NaN or +Infinity; only −Infinity, which masks, is allowed"
        )


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_malformed_in_every_format(poison):
    array = vectors()
    array[1, 2] = poison
    assert "inputs[0].embeddings" in refusal({"embeddings": array}, error=Malformed)
    assert "inputs[0].memory" in refusal({"embeddings": vectors(), "memory": array}, error=Malformed)
    for narrow in (array.astype(np.float16), float32_to_bits(array)):
        for sent in ({"embeddings": narrow}, {"embeddings": vectors(), "memory": narrow}):
            assert refusal(sent, error=Malformed) == (
                f"inputs[0].{'memory' if 'memory' in sent else 'embeddings'} holds NaN or Infinity; "
                "every number must be finite"
            )


def test_arrays_of_other_kinds_are_refused():
    assert "must be floating-point" in refusal({"embeddings": np.ones((3, 4), np.int64)})
    for wrong in (2, -1, np.nan, -np.inf, 0.5):
        mask = np.array([1, wrong, 0], np.float32)
        assert "true or 1 where" in refusal({"embeddings": vectors(), "mask": mask})
    assert "true or 1 where" in refusal({"embeddings": vectors(), "mask": np.array([0, 2, 1])})


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float32, np.float16, np.bool_])
def test_masks_of_zeros_and_ones_are_masks_of_booleans(dtype):
    mask = np.array([1, 0, 1], dtype)
    got = resolved({"embeddings": vectors(), "mask": mask}).items[0].input.mask
    assert got.dtype == np.bool_
    assert got.tolist() == [True, False, True]


def test_mask_of_half_precision_bits_is_read_as_numbers():
    ones = np.array([0x3F80, 0, 0x3F80], np.uint16)
    assert resolved({"embeddings": vectors(), "mask": ones}).items[0].input.mask.tolist() == [
        True,
        False,
        True,
    ]
    assert "true or 1" in refusal({"embeddings": vectors(), "mask": np.array([1, 0, 1], np.uint16)})


def test_integers_are_no_mask_of_numbers_that_are_added():
    with pytest.raises(Invalid, match="must be booleans or floating-point"):
        attention(problem(mask=np.ones(5, np.int64)))


@pytest.mark.parametrize("source", ["token_ids", "embeddings"])
def test_type_ids_stand_beside_the_tokens_they_are_of(source):
    given = {"token_ids": np.arange(3)} if source == "token_ids" else {"embeddings": vectors()}
    card = fake_card(types=2)
    ids = resolved({**given, "type_ids": np.array([0, 1, 1], np.int32)}, card=card).items[0].input.type_ids
    assert ids.dtype == np.int64
    assert ids.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("types", "ids", "words"),
    [
        (2, [0, 2, 1], "inputs[0].type_ids[1] is 2; model fake has types from 0 to 1"),
        (2, [0, -1, 1], "inputs[0].type_ids[1] is -1"),
        (1, [0, 0, 1], "inputs[0].type_ids[2] is 1; model fake has types from 0 to 0"),
        (0, [1, 0, 0], "has no token types: give zeros"),
        (2, [0, 1], "inputs[0].type_ids has shape [2]; give [3]"),
        (2, [[0, 1, 0]], "inputs[0].type_ids has shape [1, 3]"),
        (2, [0.0, 1.0, 0.0], "must be integers"),
    ],
)
def test_type_ids_are_bounded_before_they_index_a_table(types, ids, words):
    given = {"token_ids": np.arange(3), "type_ids": np.array(ids)}
    assert words in refusal(given, card=fake_card(types=types))


def test_zeros_are_types_of_every_model():
    given = {"token_ids": np.arange(3), "type_ids": np.zeros(3, np.int64)}
    assert resolved(given, card=fake_card(types=0)).items[0].input.type_ids.tolist() == [0, 0, 0]


def test_text_has_types_of_its_own():
    assert "a text has its own" in refusal({"text": "a b", "type_ids": np.zeros(2, np.int64)})


def test_masks_are_of_the_keys_or_of_queries_and_keys():
    for shape in ((3,), (3, 3)):
        assert resolved({"embeddings": vectors(), "mask": np.ones(shape, bool)}).items[
            0
        ].input.mask.shape == (shape)
    crossed = {"embeddings": vectors(3), "memory": vectors(5)}
    for shape in ((5,), (3, 5)):
        assert resolved({**crossed, "mask": np.ones(shape, bool)}).items[0].input.mask.shape == shape
    for shape in ((3,), (5, 3), (2, 3, 5), (0,)):
        assert refusal({**crossed, "mask": np.ones(shape, bool)}) == (
            f"inputs[0].mask has shape {list(shape)}; give [5] or [3, 5]"
        )


def problem(query=(2, 3, 4), key=(2, 5, 4), value=(2, 5, 6), **more):
    shapes = {"query": query, "key": key, "value": value}
    return {**{name: np.ones(shape, np.float32) for name, shape in shapes.items()}, **more}


def attention(*inputs, **options):
    return resolve_attention(read_envelope(AttentionRequest, {"inputs": list(inputs), **options}))


def attention_refusal(*inputs, error=Invalid, **options):
    with pytest.raises(error) as caught:
        attention(*inputs, **options)
    return caught.value.message


def test_a_problem_keeps_its_head_axis():
    (item,) = attention(problem()).items
    assert item.card is None
    assert item.input.head_axis
    assert (item.dims.heads, item.dims.T, item.dims.S, item.dims.d_k, item.dims.d_z) == (2, 3, 5, 4, 6)


def test_a_problem_without_a_head_axis_is_given_one_head():
    (item,) = attention(problem((3, 4), (5, 4), (5, 6))).items
    assert not item.input.head_axis
    assert item.input.query.shape == (1, 3, 4)


def test_grouped_queries_share_keys():
    (item,) = attention(problem((6, 3, 4), (2, 5, 4), (2, 5, 4)), heads=[5]).items
    assert (item.dims.heads, item.dims.key_heads, item.selection.heads) == (6, 2, (5,))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((2, 3, 4), (5, 4), (5, 4)), "give all three [H, T, d] or all three [T, d]"),
        (((3,), (5,), (5,)), "give all three"),
        (((1, 2, 3, 4),) * 3, "give all three"),
        (((2, 3, 4), (2, 5, 4), (2, 6, 4)), "as many heads and positions"),
        (((2, 3, 4), (2, 5, 4), (1, 5, 4)), "as many heads and positions"),
        (((2, 3, 4), (2, 5, 3), (2, 5, 4)), "query and key must be equally wide"),
        (((3, 3, 4), (2, 5, 4), (2, 5, 4)), "the heads of key must divide the heads of query"),
        (((1, 3, 4), (2, 5, 4), (2, 5, 4)), "the heads of key must divide the heads of query"),
        (((2, 0, 4), (2, 5, 4), (2, 5, 4)), "no axis may be empty"),
        (((3, 4), (0, 4), (0, 4)), "no axis may be empty"),
        (((3, 0), (5, 0), (5, 1)), "no axis may be empty"),
    ],
)
def test_shapes_that_do_not_fit_each_other_are_refused_and_shown(shapes, said):
    message = attention_refusal(problem(*shapes))
    assert said in message
    assert f"query {list(shapes[0])}" in message


def test_masks_of_a_problem_have_one_to_three_axes():
    for shape in ((5,), (3, 5), (2, 3, 5)):
        bias = np.full(shape, -np.inf, np.float32)
        assert attention(problem(mask=bias)).items[0].input.mask is not None
        assert attention(problem(mask=np.ones(shape, bool))).items[0].input.mask.dtype == np.bool_
    assert "inputs[0].mask has shape" in attention_refusal(problem(mask=np.ones((1, 3, 5), bool)))
    flat = problem((3, 4), (5, 4), (5, 6), mask=np.ones((1, 3, 5), bool))
    assert "give [5] or [3, 5]" in attention_refusal(flat)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_mask_may_hold_minus_infinity_and_no_other(poison):
    mask = np.zeros((3, 5), np.float32)
    mask[1, 1] = poison
    assert "only −Infinity" in attention_refusal(problem(mask=mask), error=Malformed)


def test_the_rule_is_the_callers():
    (item,) = attention(
        problem(),
        scale=0.5,
        similarity="cosine",
        causal=True,
        causal_offset=2,
        left_window=1,
        right_window=0,
        softcap=3.0,
        exclude_self=True,
    ).items
    rule = item.input.rule
    assert (rule.scale, rule.similarity, rule.causal, rule.causal_offset) == (0.5, "cosine", True, 2)
    assert (rule.left_window, rule.right_window, rule.softcap, rule.exclude_self) == (1, 0, 3.0, True)


@pytest.mark.parametrize("name", sorted(set(OUTPUTS) - set(ATTENTION_OUTPUTS)))
def test_outputs_of_whole_models_are_not_offered_for_ones_own_queries(name):
    refused = attention_refusal(problem(), outputs=[name])
    assert (
        f"/v1/attention does not offer the output {name}, which needs {NEEDS[OUTPUTS[name].needs]}" in refused
    )
