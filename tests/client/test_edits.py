"""Head sets, named spans, edits and targets as the client sends them, and what it keeps together."""

import json

import httpx
import numpy as np
import pytest

from heed_client import Client, Edit, HeadSet, Input
from heed_client.parts import Sent, divided, parts_of
from heed_client.tensors import body_of, read

TOKEN = np.zeros((1, 1), np.float32)


class Recorder:
    """Answers every input with one z, and keeps what was asked."""

    def __init__(self, **tensors: np.ndarray) -> None:
        self.tensors = tensors or {"z": TOKEN}
        self.bodies: list[dict] = []
        self.requests: list[httpx.Request] = []
        self.metadata: dict[str, str] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        self.requests.append(request)
        as_json = request.headers["content-type"] == "application/json"
        found = json.loads(body) if as_json else dict(request.url.params)
        names = [] if as_json else read(body)[0]
        count = len(found["inputs"]) if as_json else len({name.partition(".")[0] for name in names})
        self.bodies.append(found)
        content = with_metadata(
            {f"{n}.{name}": array for n in range(count) for name, array in self.tensors.items()},
            self.metadata,
        )
        return httpx.Response(200, content=content, headers={"content-type": "application/x-safetensors"})


def with_metadata(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    whole = body_of(arrays)
    length = int.from_bytes(whole[:8], "little")
    header = {"__metadata__": metadata, **json.loads(whole[8 : 8 + length])}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    return len(said).to_bytes(8, "little") + said + whole[8 + length :]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def heed(recorder):
    with Client("http://heed", transport=httpx.MockTransport(recorder)) as client:
        yield client


@pytest.mark.parametrize(
    ("heads", "sent"),
    [
        ([0, 3], [0, 3]),
        ([(5, 1), (-1, 2)], [[5, 1], [-1, 2]]),
        (HeadSet([(5, 1)]), [[5, 1]]),
        (HeadSet([(5, 1), (2, 0)], weights=[0.5, 2]), {"pairs": [[5, 1], [2, 0]], "weights": [0.5, 2.0]}),
        ("induction", "induction"),
    ],
)
def test_heads_are_numbers_pairs_sets_or_a_name(heed, recorder, heads, sent):
    heed.attend("m", "text", heads=heads)
    assert recorder.bodies[-1]["heads"] == sent


@pytest.mark.parametrize(
    ("pairs", "weights"), [([], None), ([(1, 2, 3)], None), ([(1, 2)], [0.5, 0.5])], ids=str
)
def test_head_set_that_makes_no_sense_is_refused_when_it_is_made(pairs, weights):
    with pytest.raises(ValueError, match="HeadSet"):
        HeadSet(pairs, weights)


def test_named_spans_and_places_that_speak_of_them(heed, recorder):
    heed.attend(
        "m",
        "text",
        spans={"name": (0, 4)},
        rows="name",
        columns=["name", (5, 9)],
        reduce="mean",
        share={"of": "name", "over": ["name", (5, 9)]},
        targets=[" Mary", np.int64(17)],
    )
    body = recorder.bodies[-1]
    assert body["spans"] == {"name": [0, 4]}
    assert (body["rows"], body["columns"], body["reduce"]) == ("name", ["name", [5, 9]], "mean")
    assert body["share"] == {"of": "name", "over": ["name", [5, 9]]}
    assert body["targets"] == [" Mary", 17]


@pytest.mark.parametrize(
    ("edit", "sent"),
    [
        (Edit.scale(0, heads=[(5, 1)]), {"edit": "scale", "heads": [[5, 1]], "value": 0.0}),
        (
            Edit.block(layers=[1, 2], keys=[3, (5, 7)]),
            {"edit": "block", "layers": [1, 2], "keys": [3, [5, 7]]},
        ),
        (
            Edit.add(-4.5, layers="all", keys={"outside": ["name"]}),
            {"edit": "add", "layers": "all", "keys": {"outside": ["name"]}, "value": -4.5},
        ),
        (
            Edit.pattern("first", heads=[1], layers=-1, queries=slice(2, None)),
            {
                "edit": "pattern",
                "heads": [1],
                "layers": -1,
                "queries": {"start": 2, "stop": None},
                "value": "first",
            },
        ),
        (
            Edit.set(np.ones((1, 1, 2), np.float16), heads="a set"),
            {"edit": "set", "heads": "a set", "value": [[[1.0, 1.0]]]},
        ),
    ],
    ids=lambda one: one.edit if isinstance(one, Edit) else "",
)
def test_edits_travel_as_the_server_reads_them(heed, recorder, edit, sent):
    heed.attend("m", Input(text="text", edits=[edit]))
    assert recorder.bodies[-1]["inputs"] == [{"text": "text", "edits": [sent]}]


def body_read(request: httpx.Request) -> tuple[dict[str, np.ndarray], dict]:
    assert request.headers["content-type"] == "application/x-safetensors"
    arrays, metadata = read(request.content)
    return arrays, json.loads(metadata.get("edits", "null"))


def test_edited_input_of_numbers_travels_as_tensors_its_matrices_too(heed, recorder):
    weights = np.full((2, 2), 0.5)
    edits = [Edit.scale(0.5, heads=[(0, 0)]), Edit.pattern(weights, layers=0), Edit.pattern("self", layers=1)]
    heed.attend("m", [Input(token_ids=[4]), Input(token_ids=[4, 5], edits=edits)])
    arrays, said = body_read(recorder.requests[-1])
    assert sorted(arrays) == ["0.token_ids", "1.edits.1", "1.token_ids"]
    assert arrays["1.edits.1"].dtype == np.float32
    assert said == {
        "1": [
            {"edit": "scale", "heads": [[0, 0]], "value": 0.5},
            {"edit": "pattern", "layers": 0},
            {"edit": "pattern", "layers": 1, "value": "self"},
        ]
    }


EVERY = [(layer, head) for layer in range(100) for head in range(64)]


@pytest.mark.parametrize(("heads", "count"), [(EVERY, 1), ([(0, 0)], 60)], ids=["query", "metadata"])
def test_what_is_too_long_for_a_head_travels_as_json(heed, recorder, heads, count):
    edits = [Edit.scale(0.5, heads=EVERY if count > 1 else [(0, 0)])] * count
    heed.attend("m", Input(token_ids=[4, 5], edits=edits), heads=heads)
    (one,) = recorder.bodies[-1]["inputs"]
    assert one["token_ids"] == [4, 5]
    assert len(one["edits"]) == count


def test_edits_of_many_inputs_are_divided_before_their_head_is_too_long(heed, recorder):
    one = Input(token_ids=[4], edits=[Edit.scale(0.5, heads=EVERY)])
    size = Sent(tensors=one.arrays(), spoken={}, edits=tuple(one.edits)).head_bytes
    parts = parts_of([Sent(tensors=one.arrays(), spoken={}, edits=tuple(one.edits))] * 40, limit=None)
    assert {part.as_json for part in parts} == {False}
    assert all(len(part.places) * size < 2**20 for part in parts)
    assert [place for part in parts for place in part.places] == list(range(40))


def test_inputs_that_take_from_each_other_travel_together_and_are_numbered_anew(heed, recorder):
    ids = np.array([1, 2])
    taking = Input(token_ids=ids, edits=[Edit.from_input(1, heads=[(0, 0)])])
    heed.attend("m", [ids, ids, taking])
    alone = Input(text="a b", edits=[Edit.from_input(1, heads=[(0, 0)])])
    heed.attend("m", [ids, ids, alone])
    numbers, linked, single = recorder.requests
    arrays, said = body_read(numbers)
    assert sorted(arrays) == ["0.token_ids", "1.token_ids", "2.token_ids"]
    assert said == {"2": [{"edit": "from", "heads": [[0, 0]], "input": 1}]}
    inputs = json.loads(linked.content)["inputs"]  # in JSON, for one of them is a text
    assert inputs[0] == {"token_ids": [1, 2]}
    assert inputs[1]["edits"][0]["input"] == 0
    assert sorted(body_read(single)[0]) == ["0.token_ids"]


def test_source_that_is_no_input_is_refused_before_it_is_sent(heed, recorder):
    with pytest.raises(ValueError, match="input 0 takes from input 3; there are 1"):
        heed.attend("m", Input(text="a", edits=[Edit.from_input(3, heads=[(0, 0)])]))
    assert recorder.bodies == []


def test_groups_are_packed_within_the_limit_and_never_divided():
    def of(*sources: int) -> Sent:
        edits = tuple(Edit.from_input(source, heads=[(0, 0)]) for source in sources)
        return Sent(tensors={}, spoken={"text": "x" * 10}, edits=edits)

    inputs = [of(), of(), of(1), of(), of(2)]
    assert [part.groups for part in parts_of(inputs, limit=None)] == [((0,), (1, 2, 4), (3,))]
    size = inputs[0].size
    (first, second, third) = parts_of(inputs, limit=size)
    assert [part.groups for part in (first, second, third)] == [((0,),), ((1, 2, 4),), ((3,),)]
    assert divided(second) is None
    assert [half.places for half in divided(parts_of(inputs, limit=None)[0]) or ()] == [(0,), (1, 2, 4, 3)]


def test_reply_says_that_it_was_edited_and_names_the_next_tokens(heed, recorder):
    recorder.tensors = {"next_ids": np.array([[3, 1]], np.int32)}
    recorder.metadata = {"0.edited": "true", "0.next_tokens": '[["a", "b"]]'}
    [one] = heed.attend("m", "text", outputs="next")
    assert (one.edited, one.next_tokens) == (True, [["a", "b"]])
    assert one.next_ids.tolist() == [[3, 1]]


class TestReplay:
    @pytest.fixture
    def recorder(self):
        return Recorder(weights=np.full((2, 1, 3, 6), 1 / 6, np.float32))

    def test_rows_are_those_that_predicted_the_answer(self, heed, recorder):
        replayed = heed.replay("m", [1, 2, 3], np.array([4, 5, 6]))
        (body,) = recorder.bodies
        assert json.loads(body["rows"]) == {"start": 2, "stop": 5}
        assert (body["layers"], json.loads(body["outputs"])) == ("all", ["weights"])
        assert [replayed.step(step).shape for step in range(3)] == [(2, 1, 3), (2, 1, 4), (2, 1, 5)]
        with pytest.raises(IndexError, match="none of the 3"):
            replayed.step(3)

    def test_texts_are_tokenized_together_and_cut_where_the_answer_begins(self, heed, recorder):
        recorder.metadata = {"0.tokens": '["a", "b", "c"]', "0.offsets": "[[0, 1], [1, 4], [4, 6]]"}
        replayed = heed.replay("m", "a bc", "de", layers=-1)
        asked_for_tokens, asked = recorder.bodies
        assert asked_for_tokens["inputs"] == [{"text": "a bcde"}]
        assert asked["rows"] == {"start": 1, "stop": 2}
        assert (asked["layers"], replayed.prompt_tokens) == (-1, 2)

    def test_nothing_to_replay_and_mixed_kinds_are_refused(self, heed, recorder):
        with pytest.raises(ValueError, match="a token or more of prompt"):
            heed.replay("m", [1], [])
        with pytest.raises(TypeError, match="both as texts"):
            heed.replay("m", "a", [1])


class TestPictures:
    @pytest.fixture
    def recorder(self):
        return Recorder(weights=np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2))

    def test_bertviz_takes_a_tensor_a_layer(self, heed):
        [one] = heed.attend("m", "text", layers="all")
        made = one.for_bertviz()
        assert [tuple(layer.shape) for layer in made["attention"]] == [(1, 3, 2, 2)] * 2
        np.testing.assert_array_equal(made["attention"][1][0].numpy(), one.weights[1])
        assert made["tokens"] == ["0", "1"]

    def test_circuitsvis_takes_the_heads_of_one_layer(self, heed):
        [one] = heed.attend("m", "text", layers="all")
        made = one.for_circuitsvis(layer=1)
        np.testing.assert_array_equal(made["attention"], one.weights[1])
        assert made["attention_head_names"] == ["Head 0", "Head 1", "Head 2"]
        assert made["mask_upper_tri"] is False
        with pytest.raises(ValueError, match="say which"):
            one.for_circuitsvis()

    def test_chosen_rows_are_no_picture(self, recorder, heed):
        recorder.tensors = {"weights": np.ones((3, 1, 2), np.float32)}
        [one] = heed.attend("m", "text", rows=[0])
        with pytest.raises(ValueError, match="ask without rows"):
            one.for_bertviz()
