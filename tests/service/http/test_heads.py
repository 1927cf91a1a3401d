"""Heads in the words of callers: numbers, pairs, weighted pairs, names of the folder's sets."""

import pytest

from models.heads.sets import HeadSet
from service.errors import Invalid
from service.http.fields.addresses import WeightedPairs
from service.http.fields.heads import every_pair, numbers_of, set_of
from tests.fakes import fake_card

QR = HeadSet(pairs=((1, 0), (0, 1)), source="arXiv:2506.09944")
CARD = fake_card(head_sets={"qr": QR, "core": HeadSet(pairs=((0, 0),), weights=(0.5,))})


def refusal(heads, *, card=CARD, field="heads"):
    with pytest.raises(Invalid) as caught:
        set_of(heads, card, field=field)
    return caught.value.message


def test_pairs_keep_their_order_and_negative_layers_count_from_the_end():
    assert set_of([[-1, 0], [0, 1]], CARD) == HeadSet(pairs=((1, 0), (0, 1)))


def test_numbers_and_nothing_are_no_set():
    assert set_of([1, 0], CARD) is None
    assert set_of(None, CARD) is None


def test_weights_are_those_that_are_given_or_those_of_the_set():
    assert set_of(WeightedPairs(pairs=[[1, 1]], weights=[-2]), CARD).weights == (-2.0,)
    assert set_of(WeightedPairs(pairs=[[1, 1]]), CARD).weights is None
    assert set_of("qr", CARD) is QR
    assert set_of("core", CARD).weights == (0.5,)


def test_pairs_out_of_range_or_twice_are_refused():
    assert refusal([[2, 0]]) == "heads has [2, 0]; model fake has 2 layers, from -2 to 1"
    assert refusal([[0, 2]]) == "heads has [0, 2]; there are 2 heads a layer, from 0 to 1"
    assert refusal([[0, -1]]) == "heads has [0, -1]; there are 2 heads a layer, from 0 to 1"
    assert refusal([[1, 0], [-1, 0]]) == "heads has the same pair twice; give each once"
    assert refusal(WeightedPairs(pairs=[[3, 0]]), field="inputs[0].edits[1].heads") == (
        "inputs[0].edits[1].heads.pairs has [3, 0]; model fake has 2 layers, from -2 to 1"
    )


def test_weights_are_as_many_as_pairs():
    assert refusal(WeightedPairs(pairs=[[0, 0], [0, 1]], weights=[1.0])) == (
        "heads has 2 pairs and 1 weights; give as many"
    )


def test_a_name_that_is_none_is_refused_with_the_nearest_that_is():
    assert refusal("qrr") == "heads is 'qrr', which is no head set of model fake; did you mean qr?"
    assert refusal("x").endswith("no head set of model fake; known: qr, core")
    assert refusal("qr", card=fake_card()).endswith("its folder has no head sets")


def test_pairs_of_numbers_are_of_every_layer_that_is_given():
    assert every_pair((0, 1), [1]) == ((0, 1), (1, 1))
    assert every_pair((1,), range(2)) == ((1, 0), (1, 1))


def test_all_heads_in_order_are_as_good_as_none():
    assert numbers_of([0, 1], 2) is None
    assert numbers_of([1, 0], 2) == (1, 0)


def test_a_mixture_leaves_out_heads_of_weight_0_and_weighs_the_rest_1_each():
    weighted = HeadSet(pairs=((0, 0), (1, 1), (0, 1)), weights=(0.5, 0.0, -2.0)).mix()
    assert (weighted.pairs, weighted.weights) == (((0, 0), (0, 1)), (0.5, -2.0))
    assert QR.mix().weights == (1.0, 1.0)
    nothing = HeadSet(pairs=((0, 1), (1, 1)), weights=(0.0, 0.0)).mix()
    assert (nothing.pairs, nothing.weights) == (((0, 1),), (0.0,))


def test_a_set_says_how_many_layers_run_for_it():
    assert (QR.layers, CARD.head_sets["core"].layers) == (2, 1)
