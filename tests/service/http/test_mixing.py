"""Head sets, named spans, `mixed` and `share` over HTTP, in every format: what is asked, and what is refused.

The fake's weights are 1/S everywhere, so every sum can be checked by hand.
"""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.heads.sets import HeadSet
from models.outputs import Mix, Share
from service.errors import Invalid
from service.http.envelope import read_envelope
from service.http.resolve import resolve_attend
from service.http.schemas import AttendRequest
from service.http.texts.reading import Reading
from service.wire import npy, safetensors_format
from tests.fakes import FakeRuntime, fake_card
from tests.serving import refused, served

SETS = {
    "qr": HeadSet(pairs=((1, 0), (0, 1))),
    "at2": HeadSet(pairs=((0, 0), (0, 1), (1, 0), (1, 1)), weights=(0.5, 0.0, 2.0, 0.0), bias=1.0),
    "contacts": HeadSet(pairs=((0, 1),), symmetric=True, apc=True, skip=(1, 1), sigmoid=True),
}
CARD = fake_card(head_sets=SETS)
TEXT = "a b c d e f g h"  # eight tokens, each of one character
FOUR = {"embeddings": [[1.0] * 4] * 4}


@pytest.fixture(scope="module")
def service():
    with served(FakeRuntime(CARD)) as running:
        yield running


def selection(given: dict[str, Any] | None = None, *, card: Any = CARD, **options: Any) -> Any:
    asked = read_envelope(AttendRequest, {"inputs": [_arrays(given or FOUR)], **options})
    return resolve_attend(asked, runtime=FakeRuntime(card), how=Reading(card=card)).items[0].selection


def _arrays(given: dict[str, Any]) -> dict[str, Any]:
    tensors = {name: np.array(given[name], np.float32) for name in ("embeddings", "memory") if name in given}
    return {**given, **tensors}


def refusal(given: dict[str, Any] | None = None, **options: Any) -> str:
    with pytest.raises(Invalid) as caught:
        selection(given, **options)
    return caught.value.message


def test_pairs_take_the_place_of_heads_and_layers():
    chosen = selection(heads=[[-1, 1], [0, 0]], outputs=["weights"])
    assert (chosen.pairs, chosen.heads) == (((1, 1), (0, 0)), None)
    assert selection(heads="qr", outputs=["weights"]).pairs == SETS["qr"].pairs
    assert selection(heads=[1], outputs=["weights"]).pairs is None


def test_a_mixture_is_of_the_set_or_of_all_chosen_heads_alike():
    assert selection(heads="qr", outputs=["mixed"]).mix == Mix(pairs=((1, 0), (0, 1)), weights=(1.0, 1.0))
    at2 = selection(heads="at2", outputs=["mixed"], reduce="sum").mix
    assert at2 == Mix(pairs=((0, 0), (1, 0)), weights=(0.5, 2.0), reduce="sum", bias=1.0)
    weighted = {"pairs": [[0, 1], [1, 1]], "weights": [3, -1]}
    assert selection(heads=weighted, outputs=["mixed"]).mix.weights == (3.0, -1.0)
    both = selection(heads=[1], layers="all", outputs=["mixed"]).mix
    assert both == Mix(pairs=((0, 1), (1, 1)), weights=(1.0, 1.0))
    assert selection(heads="qr", outputs=["weights"]).mix is None


def test_names_stand_wherever_positions_do():
    given = {"text": TEXT, "spans": {"head": [0, 2], "tail": [6, 8]}}
    chosen = selection(
        given,
        heads="qr",
        rows=["tail", 0],
        columns=["tail", "head", [2, 5]],
        share={"of": "head", "over": ["tail", "head", [1, 3]]},
        outputs=["mixed", "share"],
    )
    assert chosen.rows == (6, 7, 0)
    assert chosen.mix.columns == ((6, 8), (0, 2), (2, 5))
    assert chosen.share == Share(of=((0, 2),), over=((0, 3), (6, 8)))
    assert selection(given, rows={"outside": "tail"}, outputs=["entropy"]).rows == (0, 1, 2, 3, 4, 5)


def test_ranges_of_characters_are_so_everywhere_and_single_positions_never():
    given = {"text": TEXT, "spans": {"head": [0, 3]}}
    chosen = selection(
        given,
        span_unit="characters",
        heads="qr",
        rows=["head", [14, 15], 2],
        columns=[[6, 9], "head"],
        outputs=["mixed"],
    )
    assert chosen.rows == (0, 1, 7, 2)
    assert chosen.mix.columns == ((3, 5), (0, 2))


def test_names_of_an_input_stand_in_place_of_the_requests():
    asked = {
        "inputs": [{"text": TEXT}, {"text": TEXT, "spans": {"q": [6, 8]}}],
        "spans": {"q": [0, 1]},
        "rows": "q",
        "outputs": ["entropy"],
    }
    read = read_envelope(AttendRequest, asked)
    items = resolve_attend(read, runtime=FakeRuntime(CARD), how=Reading(card=CARD)).items
    assert [item.selection.rows for item in items] == [(0,), (6, 7)]


def test_columns_with_memory_are_positions_of_the_memory():
    given = {**FOUR, "memory": [[1.0] * 4] * 9, "spans": {"tail": [2, 4], "far": [5, 9]}}
    chosen = selection(given, heads="qr", rows="tail", columns=["far", "tail"], outputs=["mixed"])
    assert (chosen.rows, chosen.mix.columns) == ((2, 3), ((5, 9), (2, 4)))
    assert refusal(given, rows="far", outputs=["entropy"]) == (
        "rows has 'far', which is [5, 9]; give start < end ≤ 4, the positions of inputs[0]"
    )
    assert refusal(given, columns=[[5, 10]], outputs=["mixed"]) == (
        "columns has [5, 10]; give start < end ≤ 9, the positions of inputs[0].memory"
    )
    text = {"text": "a b c d", "memory": given["memory"], "spans": {"q": [0, 3]}}
    said = refusal(text, span_unit="characters", columns=["q"], outputs=["mixed"])
    assert said.startswith("columns has 'q', which is no span of inputs[0].memory; span_unit counts")
    assert selection(text, span_unit="characters", rows="q", outputs=["mixed"]).rows == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"columns": [[0, 1]]},
            "columns is of the output mixed, which is not among outputs; ask for it or leave columns",
        ),
        (
            {"reduce": "sum"},
            "reduce is of the output mixed, which is not among outputs; ask for it or leave reduce",
        ),
        ({"outputs": ["share"]}, 'the output share needs the field share, {"of": …, "over": …}'),
        (
            {"share": {"of": [0, 1], "over": [0, 2]}},
            "share is of the output share, which is not among outputs; ask for it or leave share",
        ),
        (
            {"heads": "qr", "outputs": ["rollout"]},
            "rollout goes through whole layers; give heads as numbers, or leave rollout",
        ),
        (
            {"heads": "contacts", "outputs": ["mixed"], "rows": [0]},
            "rows may not be chosen of the mixture of this set, which is made of whole maps; leave rows",
        ),
        (
            {"heads": "contacts", "outputs": ["mixed"], "reduce": "sum"},
            "reduce may not be chosen of the mixture of this set, which is made of whole maps; leave reduce",
        ),
        ({"heads": "qrr"}, "heads is 'qrr', which is no head set of model fake; did you mean qr?"),
        (
            {"outputs": ["share"], "share": {"of": "x", "over": [0, 2]}},
            "share.of has 'x', which is no span of inputs[0]; give spans as an object, "
            '{"name": [start, end]}',
        ),
        ({"spans": {"x": [3, 5]}}, "spans.x is [3, 5]; give start < end ≤ 4, the positions of inputs[0]"),
        (
            {"spans": {"a b": [3, 3]}},
            "spans.'a b' is [3, 3]; give start < end ≤ 4, the positions of inputs[0]",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(options: dict[str, Any], message: str):
    assert refusal(**options) == message


def test_maps_of_contacts_need_one_sequence_that_is_long_enough():
    two = {"embeddings": [[1.0] * 4] * 2}
    assert refusal(two, heads="contacts", outputs=["mixed"]) == (
        "inputs[0] has 2 positions, and this set leaves out the first 1 and the last 1; give more"
    )
    said = refusal({**FOUR, "memory": [[1.0] * 4] * 3}, heads="contacts", outputs=["mixed"])
    assert said.endswith("needs queries and keys of one sequence; inputs[0] has memory")


def test_a_request_may_name_so_many_pairs_and_no_more():
    dense = HeadSet(pairs=tuple((layer, head) for layer in range(64) for head in range(64)))
    card = fake_card(layers=64, heads=64, key_heads=64, head_sets={"all": dense})
    one = _arrays(FOUR)
    asked = read_envelope(AttendRequest, {"inputs": [one] * 65, "heads": "all", "outputs": ["entropy"]})
    with pytest.raises(
        Invalid, match=r"heads are 4096 pairs of layer and head for each of 65 inputs; give at most"
    ):
        resolve_attend(asked, runtime=FakeRuntime(card), how=Reading(card=card))
    asked = read_envelope(AttendRequest, {"inputs": [one] * 64, "heads": "all", "outputs": ["entropy"]})
    assert len(resolve_attend(asked, runtime=FakeRuntime(card), how=Reading(card=card)).items) == 64


def test_json_gives_mixtures_and_shares_of_a_set(service):
    body = {
        "inputs": [{"text": TEXT, "spans": {"head": [0, 3], "tail": [12, 15]}}],
        "span_unit": "characters",
        "heads": "qr",
        "rows": "tail",
        "columns": ["head", [4, 5]],
        "share": {"of": "head", "over": ["head", "tail", [4, 5]]},
        "outputs": ["mixed", "share", "entropy"],
    }
    (output,) = service.attend(body).json()["outputs"]
    assert output["mixed"] == [[2 * 2 / 8, 2 * 1 / 8]] * 2
    assert np.allclose(output["share"], np.full((2, 2), 2 / 5))
    assert np.shape(output["entropy"]) == (2, 2)
    assert output["spans"] == {"head": [0, 2], "tail": [6, 8]}
    body |= {"reduce": "sum", "outputs": ["mixed"], "share": None}
    (output,) = service.attend(body).json()["outputs"]
    assert output["mixed"] == [2 * 2 * 2 / 8, 2 * 2 * 1 / 8]


def test_weights_of_pairs_have_one_axis_of_pairs_and_none_of_layers(service):
    body = {"inputs": [FOUR], "layers": "all", "heads": [[1, 1], [0, 0], [1, 0]], "outputs": ["weights", "z"]}
    (output,) = service.attend(body).json()["outputs"]
    assert np.shape(output["weights"]) == (3, 4, 4)
    assert np.shape(output["z"]) == (2, 4, 4)


def test_contacts_are_of_positions_without_the_first_and_the_last(service):
    body = {"inputs": [FOUR], "heads": "contacts", "outputs": ["mixed"]}
    (output,) = service.attend(body).json()["outputs"]
    assert output["mixed"] == [[0.5, 0.5]] * 2  # of a map that is the same everywhere nothing is left


def test_a_query_says_the_same(service):
    spans = json.dumps({"head": [0, 2], "tail": [2, 4]})
    options = {
        "heads": "at2",
        "rows": "tail",
        "columns": "tail,head",
        "outputs": "mixed",
        "reduce": "sum",
        "spans": spans,
    }
    array = np.ones((4, 4), np.float32)
    reply = service.post(
        f"/v1/models/fake/attend?{urlencode(options)}",
        b"".join(npy.encode(array)),
        headers={"content-type": "application/x-npy", "accept": "application/x-npy"},
    )
    assert reply.status_code == 200, reply.text
    assert np.allclose(npy.decode(reply.content), [2.5 * 2 * 2 / 4 + 1] * 2)
    many = safetensors_format.encode({"0.embeddings": array, "1.embeddings": array}, metadata={})
    options = {
        "heads": "[[1,0],[0,1]]",
        "outputs": "share,weights",
        "spans": spans,
        "share": json.dumps({"of": "head", "over": [0, 4]}),
    }
    reply = service.post(
        f"/v1/models/fake/attend?{urlencode(options)}",
        b"".join(many),
        headers={"content-type": "application/x-safetensors", "accept": "application/x-safetensors"},
    )
    found = safetensors_format.decode(reply.content).arrays
    assert found["1.weights"].shape == (2, 4, 4)
    assert np.allclose(found["1.share"], 0.5)


def test_the_open_inference_protocol_has_the_same_parameters(service):
    body = {
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}],
        "outputs": [{"name": "mixed"}, {"name": "share"}],
        "parameters": {
            "heads": "qr",
            "rows": "question",
            "columns": "question",
            "spans": json.dumps({"question": [6, 8]}),
            "share": json.dumps({"of": "question", "over": [0, 8]}),
        },
    }
    reply = service.post("/v2/models/fake/infer", body)
    assert reply.status_code == 200, reply.text
    outputs = {output["name"]: output for output in reply.json()["outputs"]}
    assert outputs["mixed"]["shape"] == [1, 2, 1]
    assert outputs["mixed"]["data"] == [2 * 2 / 8] * 2
    assert outputs["share"]["shape"] == [1, 2, 2]
    assert outputs["share"]["data"] == [2 / 8] * 4


def test_requests_on_the_page_are_asked_as_they_stand():
    page = (Path(__file__).parents[3] / "docs" / "head-sets.md").read_text()
    blocks = re.findall(r"^    (\{\"inputs\".*?)\n\n", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    sets = dict.fromkeys(("qr", "tracker", "at2", "alignment"), SETS["qr"])
    card = fake_card(d_model=2, layers=32, heads=32, key_heads=32, max_tokens=64, head_sets=sets)
    for block in blocks:
        asked = json.loads(block)
        for one in asked["inputs"]:
            for name, (start, end) in one.get("spans", {}).items():
                said = one["text"][start:end]
                assert said == said.strip(), name
            if "memory" in one:
                one |= {"memory": np.array(one["memory"], np.float32)}
                one |= {"token_ids": np.array(one["token_ids"])}
        read = read_envelope(AttendRequest, asked)
        assert resolve_attend(read, runtime=FakeRuntime(card), how=Reading(card=card)).items


at = st.integers(-5, 5)
ends = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(list)
place = at | ends | st.sampled_from(["head", "tail", "none"])
places = st.lists(place, min_size=1, max_size=4) | st.sampled_from(["head", "tail"])
regions = st.lists(ends | st.sampled_from(["head", "tail"]), min_size=1, max_size=3) | ends | st.just("tail")
asked = st.fixed_dictionaries(
    {"rows": places | st.fixed_dictionaries({"outside": places})},
    optional={
        "heads": st.sampled_from([[0], "qr", "at2", "contacts", {"pairs": [[1, 1]], "weights": [0.5]}]),
        "columns": st.lists(ends | st.sampled_from(["head", "tail"]), min_size=1, max_size=3),
        "reduce": st.sampled_from(["mean", "sum"]),
        "share": st.fixed_dictionaries({"of": regions, "over": regions}),
        "layers": st.sampled_from([0, [1, 0], "all"]),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked)
def test_whatever_is_asked_is_answered_in_its_shape_or_refused(service, options):
    outputs = ["mixed", "entropy", *(["share"] if "share" in options else [])]
    given_input = {**FOUR, "spans": {"head": [0, 2], "tail": [2, 4]}}
    reply = service.attend({"inputs": [given_input], "outputs": outputs, **options})
    if reply.status_code != 200:
        refused(reply, 422, "invalid")
        return
    (output,) = reply.json()["outputs"]
    heads, layers = options.get("heads"), options.get("layers", -1)
    pairs = {"qr": 2, "at2": 4}.get(heads, 0) if isinstance(heads, str) else int(isinstance(heads, dict))
    axis = () if pairs or isinstance(layers, int) else (2,)
    assert np.shape(output["entropy"])[:-1] == (*axis, pairs or (2 if heads is None else 1))
    rows = np.shape(output["entropy"])[-1]
    keys = len(options["columns"]) if "columns" in options else 4
    assert np.shape(output["mixed"]) == ((keys,) if "reduce" in options else (rows, keys))
    if "share" in options:
        of, over = (np.zeros(4, bool) for _ in range(2))
        for mask, region in ((of, options["share"]["of"]), (over, options["share"]["over"])):
            alone = isinstance(region, str) or isinstance(region[0], int)
            for one in [region] if alone else region:
                start, end = given_input["spans"][one] if isinstance(one, str) else one
                mask[start:end] = True
        assert np.allclose(output["share"], of.sum() / over.sum())


def test_refusals_reach_the_caller_before_anything_is_computed(service):
    body = {"inputs": [FOUR], "heads": [[0, 5]], "outputs": ["weights"]}
    assert refused(service.attend(body), 422, "invalid") == (
        "heads has [0, 5]; there are 2 heads a layer, from 0 to 1"
    )
