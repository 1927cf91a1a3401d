"""Both clients against the real application on a fake runtime: z is twice the embeddings, weights are 1/S."""

import asyncio
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from heed_client import (
    AsyncClient,
    Attended,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Edit,
    Input,
    InvalidReply,
    InvalidRequest,
    NotAuthorized,
    NotFound,
    Result,
    Retries,
    TooLarge,
)
from heed_client.tensors import body_of, read
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeRuntime, fake_card

X = np.arange(12, dtype=np.float32).reshape(3, 4)
Handler = Callable[[httpx.Request], httpx.Response]


class Bridge(httpx.BaseTransport):
    """Carries a client's requests to an application in this process, and keeps them."""

    def __init__(self, server: TestClient) -> None:
        self.server = server
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        sent = self.server.build_request(
            request.method,
            str(request.url.copy_with(scheme="http", host="testserver", port=None)),
            headers=[(k, v) for k, v in request.headers.multi_items() if k not in ("host", "content-length")],
            content=request.content,
        )
        got = self.server.send(sent, stream=True)
        raw = b"".join(got.iter_raw())  # the client under test decompresses for itself
        return httpx.Response(got.status_code, headers=got.headers.multi_items(), content=raw)


@pytest.fixture
def runtime():
    return FakeRuntime(fake_card())


@pytest.fixture
def settings():
    return Settings()


@pytest.fixture
def bridge(runtime, settings):
    with TestClient(create_app(settings, runtime)) as server:
        yield Bridge(server)


@pytest.fixture
def heed(bridge):
    with Client("http://heed", transport=bridge) as client:
        yield client


def mocked(handler: Handler, **more) -> Client:
    return Client("http://heed", transport=httpx.MockTransport(handler), **more)


def test_one_array_is_one_sequence_with_its_own_shapes(heed):
    result = heed.attend("fake", X)
    assert isinstance(result, Result)
    assert (len(result), result.model, result.version, result.tokens) == (1, "fake", "1", 3)
    np.testing.assert_array_equal(result[0].z, 2 * X)
    assert result[0].weights.shape == (2, 3, 3)
    assert result[0].tokens is None
    assert set(result.timing) == {"decode", "queue", "batch", "compute", "encode"}
    assert all(0 <= seconds < 60 for seconds in result.timing.values())


def test_lists_and_arrays_of_rank_3_are_ragged_batches(heed):
    result = heed.attend("fake", [X, X[:1], X[:2]])
    assert [one.z.shape for one in result] == [(3, 4), (1, 4), (2, 4)]
    assert [one.z.shape for one in heed.attend("fake", np.stack([X, X]))] == [(3, 4), (3, 4)]


def test_text_comes_back_with_its_tokens(heed, bridge):
    [one] = heed.attend("fake", "she sat [down]")
    assert one.tokens == ("she", "sat", "[down]")
    assert one.offsets == ((0, 3), (4, 7), (8, 14))
    assert one.special == (False, False, False)
    assert bridge.requests[-1].headers["content-type"] == "application/json"
    assert bridge.requests[-1].headers["accept"] == "application/x-safetensors"


def test_texts_are_tokenized_whole_or_cut_in_as_many_requests_as_it_takes(heed, bridge):
    [one] = heed.tokenize("fake", "she sat")
    assert (len(one), one.tokens, one.truncated) == (4, ("[begin]", "she", "sat", "[end]"), 0)
    assert (one.ids.dtype, one.offsets[1:3]) == (np.int64, ((0, 3), (4, 7)))
    assert one.special == (True, False, False, True)
    [long] = heed.tokenize("fake", ["word " * 40], add_special_tokens=False)
    [cut] = heed.tokenize("fake", ["word " * 40], truncate=True)
    assert (len(long), len(cut), cut.truncated) == (40, 16, 24)
    before = len(bridge.requests)
    many = heed.tokenize("fake", [f"word{'s' * (at % 3)}" for at in range(1500)])
    assert [one.tokens[1] for one in many[:3]] == ["word", "words", "wordss"]
    assert (len(many), len(bridge.requests) - before) == (1500, 2)
    with pytest.raises(NotFound):
        heed.tokenize("none", "a")
    with mocked(lambda _: httpx.Response(200, json={"data": [{}]})) as client, pytest.raises(InvalidReply):
        client.tokenize("fake", "a")


def test_tokens_may_be_awaited(bridge):
    async def ask():
        transport = httpx.ASGITransport(bridge.server.app)
        async with AsyncClient("http://heed", transport=transport) as client:
            return await client.tokenize("fake", ["a", "b c"], add_special_tokens=False)

    assert [one.tokens for one in asyncio.run(ask())] == [("a",), ("b", "c")]


def test_long_text_is_cut_only_when_asked_and_says_so(heed):
    long = "word " * 20
    with pytest.raises(TooLarge):
        heed.attend("fake", long)
    [one] = heed.attend("fake", long, truncate=True)
    assert (len(one.tokens or ()), one.truncated) == (16, 4)


def test_texts_and_arrays_in_one_batch_come_back_in_order(heed):
    result = heed.attend("fake", ["one", X, "two three", np.array([5, 6])])
    assert [one.tokens for one in result] == [("one",), None, ("two", "three"), None]
    assert [len(one.z) for one in result] == [1, 3, 2, 2]
    assert result.requests == 2
    assert result.tokens == 8


def test_options_reach_the_server_in_both_formats(heed, runtime):
    for inputs in (X, "a b c"):
        heed.attend(
            "fake",
            inputs,
            layers="all",
            outputs=["z", "top_k"],
            heads=[1],
            rows=slice(1, None),
            top_k=2,
            dtype="float16",
            deterministic=True,
            priority=3,
        )
        (item,) = runtime.batches[-1]
        chosen = item.selection
        assert chosen.outputs == ("z", "top_k_keys", "top_k_weights", "top_k_rest")
        assert (chosen.layers, chosen.heads, chosen.rows) == ((0, 1), (1,), (1, 2))
        assert (chosen.top_k, chosen.dtype, item.deterministic) == (2, "float16", True)


class TestTypes:
    @pytest.fixture
    def runtime(self):
        return FakeRuntime(fake_card(types=2))

    def test_what_a_tokenizer_gives_is_an_input(self, heed, runtime):
        pair = Input(token_ids=[5, 6, 7], type_ids=[0, 1, 1], mask=[1, 1, 0])
        heed.attend("fake", [pair, Input(embeddings=X, type_ids=np.array([1, 0, 0], np.int32))])
        first, second = runtime.batches[-1]
        assert first.input.type_ids.tolist() == [0, 1, 1]
        assert first.input.mask.tolist() == [True, True, False]
        assert second.input.type_ids.tolist() == [1, 0, 0]

    def test_type_beyond_the_models_is_refused_by_its_place(self, heed):
        with pytest.raises(InvalidRequest, match=r"inputs\[1\]\.type_ids\[0\] is 2"):
            heed.attend("fake", [Input(token_ids=[5]), Input(token_ids=[5], type_ids=[2])])


def test_edits_are_the_same_as_tensors_and_as_json(heed, bridge):
    z = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    edits = [
        Edit.set(z, heads=[(1, 0)]),
        Edit.pattern(np.eye(3), layers=-1),
        Edit.from_input(0, heads=[(1, 1)], queries=[2]),
        Edit.block(layers=-1, heads=[1], queries="first", keys=["first"]),
    ]
    named = {"first": (0, 1)}
    other = Input(embeddings=X + 1)
    plain, one = heed.attend("fake", [other, Input(embeddings=X, edits=edits)], spans=named)
    _, spoken = heed.attend("fake", [other, Input(embeddings=X, edits=edits, spans=named)])
    kinds = [request.headers["content-type"] for request in bridge.requests]
    assert kinds[-2:] == ["application/x-safetensors", "application/json"]
    assert (plain.edited, one.edited) == (False, True)
    np.testing.assert_array_equal(one.z[:, :2], z[0])
    np.testing.assert_array_equal(one.z[2, 2:], 2 * (X[2, 2:] + 1))
    np.testing.assert_array_equal(one.z, spoken.z)
    np.testing.assert_array_equal(one.weights, spoken.weights)


def test_memory_mask_and_spans_of_an_input(heed, runtime):
    crossed = Input(embeddings=X.tolist(), memory=np.ones((5, 4)), mask=[True] * 4 + [False])
    [one] = heed.attend("fake", crossed)
    assert one.weights.shape == (2, 3, 5)
    (item,) = runtime.batches[-1]
    assert item.input.mask.tolist() == [True] * 4 + [False]
    spanned = heed.attend(
        "fake", [Input(text="a b c", spans=[(0, 2), (2, 3)]), Input(embeddings=X, spans=[(0, 3)])]
    )
    assert [one.weights.shape for one in spanned] == [(2, 2, 2), (2, 1, 1)]


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize(
    ("spans", "came_to"),
    [({"first": (0, 3), "both": (0, 7)}, {"first": (0, 1), "both": (0, 2)}), ([(0, 3)], ((0, 1),))],
    ids=["named", "a list"],
)
def test_spans_of_characters_come_back_as_they_were_given(heed, spans, came_to, tokens):
    [one] = heed.attend("fake", Input(text="one two", spans=spans), span_unit="characters", tokens=tokens)
    assert one.spans == came_to
    assert (one.tokens is not None) == tokens


@pytest.mark.parametrize(("dtype", "arrives"), [("float16", np.float16), ("bfloat16", np.float32)])
def test_half_precision_replies(heed, dtype, arrives):
    z = heed.attend("fake", X, dtype=dtype)[0].z
    assert z.dtype == arrives
    np.testing.assert_array_equal(z, 2 * X)


def test_attention_of_own_tensors_one_or_several(heed):
    q = np.ones((2, 3, 4))
    [one] = heed.attention(q, q, q, causal=True, mask=np.ones(3, bool))
    assert one.weights.shape == (2, 3, 3)
    several = heed.attention([X, X[:1]], [X, X], [X, X], outputs="weights")
    assert [one.weights.shape for one in several] == [(3, 3), (1, 3)]
    with pytest.raises(ValueError, match="as many"):
        heed.attention([X, X], [X], [X])


def test_models_are_described(heed):
    [card] = heed.models()
    assert (card.name, card.version, card.layers, card.heads, card.d_model) == ("fake", "1", 2, 2, 4)
    assert "weights" in card.outputs
    assert heed.model("fake").details["limits"]["max_body_bytes"] == Settings().max_body_bytes


def test_unknown_model_and_wrong_width_are_refused_in_the_servers_words(heed):
    with pytest.raises(NotFound) as missing:
        heed.attend("other", X)
    assert missing.value.code == "unknown_model"
    with pytest.raises(InvalidRequest, match="reads rows of 4"):
        heed.attend("fake", X[:, :3])


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ([], ValueError),
        (np.ones(3), ValueError),
        (np.ones((1, 1, 1, 1)), ValueError),
        ([1.0], TypeError),
        (np.array(["a"]), ValueError),
    ],
)
def test_what_is_no_sequence_is_refused_before_it_is_sent(heed, bridge, inputs, error):
    with pytest.raises(error):
        heed.attend("fake", inputs)
    assert bridge.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"text": "a", "embeddings": X},
        {"embeddings": [[1.0], [1.0, 2.0]]},
        {"embeddings": X[0]},
        {"token_ids": [1.5]},
        {"embeddings": X, "mask": [1, 0, 2]},
        {"embeddings": X, "mask": [1.0, 0.0, 1.0]},
        {"token_ids": [1, 2], "type_ids": [0.5, 1.0]},
        {"token_ids": [1, 2], "type_ids": [[0, 1]]},
    ],
)
def test_inputs_that_make_no_sense_are_refused_before_they_are_sent(heed, fields):
    with pytest.raises(ValueError):
        heed.attend("fake", Input(**fields))


class TestLimits:
    @pytest.fixture
    def settings(self):
        return Settings(max_body_bytes=600_000, max_result_bytes=60_000)

    @pytest.fixture
    def runtime(self):
        return FakeRuntime(fake_card(max_tokens=None))

    def test_batch_over_the_body_limit_is_split_and_put_together_in_order(self, heed, bridge):
        batch = [np.full((2000 + place, 4), place, np.float32) for place in range(30)]
        result = heed.attend("fake", batch, outputs="pooled")
        assert result.requests > 1
        assert all(len(request.content) <= 600_000 for request in bridge.requests)
        assert result.tokens == sum(map(len, batch))
        refused = [request for request in bridge.requests if len(request.content) > 600_000]
        assert refused == []

    def test_batch_over_the_result_limit_is_halved_until_it_fits(self, heed):
        batch = [np.full((place + 1, 4), place, np.float32) for place in range(60)]
        result = heed.attend("fake", batch, outputs=["z", "weights"])
        assert result.requests > 1
        for place, one in enumerate(result):
            np.testing.assert_array_equal(one.z, 2 * batch[place])
            assert one.weights.shape == (2, place + 1, place + 1)

    def test_one_sequence_over_the_limit_is_refused_with_both_numbers(self, heed):
        with pytest.raises(TooLarge, match="60000") as caught:
            heed.attend("fake", [X, np.ones((100, 4))], outputs="weights")
        assert caught.value.code == "result_too_large"


class TestKeys:
    @pytest.fixture
    def settings(self):
        return Settings(api_keys="sesame")  # type: ignore[arg-type]  # as the environment has it

    def test_key_is_sent_and_missing_key_is_refused(self, bridge):
        with Client("http://heed", transport=bridge) as client, pytest.raises(NotAuthorized):
            client.models()
        with Client("http://heed", transport=bridge, api_key="sesame") as client:
            assert client.models()


def test_retries_wait_as_the_server_says_and_then_succeed():
    replies = [httpx.Response(429, headers={"retry-after": "3"}), httpx.Response(200, json={"models": []})]
    slept: list[float] = []
    client = mocked(lambda _: replies.pop(0), sleep=slept.append)
    assert client.models() == []
    assert slept == [3.0]


def test_connection_that_cannot_be_made_is_tried_again_and_one_that_breaks_is_not():
    tried: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        tried.append("connect")
        raise httpx.ConnectError("refused", request=request)

    def breaks(request: httpx.Request) -> httpx.Response:
        tried.append("read")
        raise httpx.ReadError("reset", request=request)

    with pytest.raises(ConnectionFailed):
        mocked(refuse, retries=Retries(attempts=3), sleep=lambda _: None).models()
    assert tried == ["connect"] * 3
    with pytest.raises(ConnectionFailed):
        mocked(breaks).models()
    assert tried[3:] == ["read"]


def test_deadline_travels_to_the_server_and_bounds_the_call():
    seen: list[httpx.Request] = []

    def slow(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        raise httpx.ReadTimeout("slow", request=request)

    with pytest.raises(DeadlineExceeded):
        mocked(slow, clock=lambda: 0.0).attend("m", X, deadline=0.25)
    assert seen[0].url.params["deadline_ms"] == "250"
    assert seen[0].extensions["timeout"]["read"] == 0.25


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/html", b"<html>"),
        ("application/x-safetensors", b"<html>"),
        ("application/x-safetensors", b"\xff" * 64),
        ("application/x-safetensors", b"\x02\0\0\0\0\0\0\0[]"),
        ("application/x-safetensors", b'\x20\0\0\0\0\0\0\0{"0.z": {"dtype": "F99"}}       '),
    ],
)
def test_what_is_not_heeds_reply_is_said_to_be_none(content_type, body):
    client = mocked(lambda _: httpx.Response(200, content=body, headers={"content-type": content_type}))
    with pytest.raises(InvalidReply):
        client.attend("m", X)


def test_reply_with_more_answers_than_inputs_is_invalid(bridge):
    reply = bridge.server.post(
        "/v1/models/fake/attend",
        json={"inputs": [{"text": "a"}, {"text": "b"}]},
        headers={"accept": "application/x-safetensors"},
    )
    headers = {"content-type": "application/x-safetensors"}
    client = mocked(lambda _: httpx.Response(200, content=reply.content, headers=headers))
    with pytest.raises(InvalidReply):
        client.attend("m", X)


def test_asking_for_an_output_that_was_not_requested_names_those_that_were():
    with pytest.raises(KeyError, match="weights"):
        Attended(tensors={"weights": X}).z  # noqa: B018  the property is the test


class AsyncBridge(httpx.AsyncBaseTransport):
    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return await asyncio.to_thread(self.bridge.handle_request, request)


def test_results_are_shown_by_their_shapes_and_not_by_their_numbers(heed):
    [one] = heed.attend("fake", "a b c", outputs=["z", "weights"])
    assert repr(one) == f"Attended(z=[3, 4], weights=[2, 3, 3], tokens={list(one.tokens)})"


def test_async_client_gives_what_the_other_gives(bridge, heed):
    async def ask() -> None:
        async with AsyncClient("http://heed", transport=AsyncBridge(bridge)) as client:
            first, second = await asyncio.gather(
                client.attend("fake", ["a b", X], layers="all"), client.attention(X, X, X)
            )
            for ours, theirs in (
                (first, heed.attend("fake", ["a b", X], layers="all")),
                (second, heed.attention(X, X, X)),
            ):
                assert [one.tokens for one in ours] == [one.tokens for one in theirs]
                for mine, other in zip(ours, theirs, strict=True):
                    assert mine.tensors.keys() == other.tensors.keys()
                    for name, array in mine.tensors.items():
                        np.testing.assert_array_equal(array, other[name])
            assert await client.models() == heed.models()
            assert (await client.model("fake")).name == "fake"

    asyncio.run(ask())


def test_async_deadline_ends_a_call_that_does_not_answer():
    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def ask() -> None:
        async with AsyncClient("http://heed", transport=httpx.MockTransport(never)) as client:
            with pytest.raises(DeadlineExceeded):
                await client.attend("m", X, deadline=0.01)

    asyncio.run(ask())


def test_arrays_are_views_of_the_reply():
    arrays, _ = read(body_of({"0.z": X}))
    assert not arrays["0.z"].flags.owndata
    assert not arrays["0.z"].flags.writeable
