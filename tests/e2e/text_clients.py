"""What users of other people's clients do with texts, against a running server on the real minilm.

    python text_clients.py URL FOLDER CASE

Runs in an environment of its own, which has those clients, unmodified, and nothing of Heed. FOLDER is the
model's. A case that fails ends with a traceback. What is right is what a plain HTTP request gives.
"""

import asyncio
import json
import os
import sys
import urllib.request

os.environ |= {  # no client may ask anything of anybody but the server
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

import numpy as np

MODEL = "minilm"
TEXTS = ["she sat on the bank of the river", "attention", "two lines\nof text"]
LONG = "river bank " * 300  # 600 tokens, over what the model takes
KEY = "none"


def ask(url, body, path="/v1/embeddings"):
    request = urllib.request.Request(
        url + path, data=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def plain(url, texts, **more):
    """The same question without any client: one row a text."""
    data = ask(url, {"model": MODEL, "input": texts, **more})["data"]
    return np.array([one["embedding"] for one in data], np.float32)


def agree(actual, expected):
    actual = np.array(actual, np.float32)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert np.abs(actual - expected).max() <= 1e-6


def openai_embeds_and_lists(url, _):
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        for more in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 384}):
            reply = client.embeddings.create(model=MODEL, input=TEXTS, user="me", **more)
            if more.get("encoding_format") == "base64":
                assert all(isinstance(one.embedding, str) for one in reply.data)
            else:
                agree([one.embedding for one in reply.data], plain(url, TEXTS))
        (listed,) = client.models.list().data
        assert (listed.id, listed.max_model_len) == (MODEL, client.models.retrieve(MODEL).max_model_len)
        cut = client.embeddings.create(model=MODEL, input=LONG, extra_body={"truncate_prompt_tokens": -1})
        assert cut.usage.prompt_tokens == listed.max_model_len
        assert cut.usage.truncated == 602 - listed.max_model_len
        unknown = {"input_type": "query", "encoding_format": None, "dimensions": None}
        reply = client.embeddings.create(model=MODEL, input=TEXTS, extra_body=unknown)
        assert reply.usage.prompt_tokens == 19


def litellm_embeds(url, _):
    import litellm

    litellm.telemetry = False
    for more in ({}, {"encoding_format": "float"}, {"user": "me"}):
        reply = litellm.embedding(
            model=f"openai/{MODEL}", input=TEXTS, api_base=f"{url}/v1", api_key=KEY, max_retries=0, **more
        )
        agree([one["embedding"] for one in reply.data], plain(url, TEXTS))
        assert reply.usage.prompt_tokens == 19


def litellm_embeds_asynchronously(url, _):
    import litellm

    reply = asyncio.run(
        litellm.aembedding(model=f"openai/{MODEL}", input=TEXTS, api_base=f"{url}/v1", api_key=KEY)
    )
    agree([one["embedding"] for one in reply.data], plain(url, TEXTS))


def langchain_embeds_texts_as_they_are(url, _):
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(
        model=MODEL, base_url=f"{url}/v1", api_key=KEY, max_retries=0, check_embedding_ctx_length=False
    )
    agree(client.embed_documents(TEXTS), plain(url, TEXTS))
    agree(client.embed_query(TEXTS[0]), plain(url, TEXTS)[0])


def langchain_splits_long_texts_by_the_models_own_tokenizer(url, folder):
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(
        model=MODEL,
        base_url=f"{url}/v1",
        api_key=KEY,
        max_retries=0,
        tiktoken_enabled=False,
        tiktoken_model_name=folder,
        embedding_ctx_length=200,
    )
    first, second, long = client.embed_documents(["river bank", "a bank of the river", LONG])
    agree([first, second], plain(url, ["river bank", "a bank of the river"]))
    agree(long, plain(url, ["river bank " * 100])[0])  # the mean of three equal pieces, made a unit again


def llamaindex_embeds(url, _):
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    client = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{url}/v1", api_key=KEY, max_retries=0)
    expected = plain(url, [text.replace("\n", " ") for text in TEXTS])
    agree(client.get_text_embedding_batch(TEXTS), expected)
    agree(client.get_query_embedding(TEXTS[0]), expected[0])


def haystack_embeds_texts_and_documents(url, _):
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    common = {
        "model": MODEL,
        "api_base_url": f"{url}/v1",
        "api_key": Secret.from_token(KEY),
        "max_retries": 0,
    }
    found = OpenAITextEmbedder(**common).run(TEXTS[0])
    agree(found["embedding"], plain(url, TEXTS)[0])
    assert found["meta"]["usage"]["prompt_tokens"] == 10
    documents = OpenAIDocumentEmbedder(**common, progress_bar=False).run([Document(content=t) for t in TEXTS])
    agree([one.embedding for one in documents["documents"]], plain(url, TEXTS))


def infinity_client_embeds(url, _):
    from infinity_client import Client
    from infinity_client.api.default import embeddings
    from infinity_client.models import OpenAIEmbeddingInputText

    body = OpenAIEmbeddingInputText.from_dict({"model": MODEL, "input": TEXTS})
    reply = embeddings.sync(client=Client(base_url=f"{url}/v1"), body=body)
    agree([one.embedding for one in reply.data], plain(url, TEXTS))
    assert reply.usage.prompt_tokens == 19


def triton_sends_texts_in_a_column(url, _):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(url.removeprefix("http://"))
    for binary in (True, False):
        texts = triton.InferInput("text", [len(TEXTS), 1], "BYTES")
        texts.set_data_from_numpy(np.array([[text] for text in TEXTS], object), binary_data=binary)
        for coding in (None, "gzip", "deflate"):
            result = client.infer(
                MODEL,
                [texts],
                outputs=[triton.InferRequestedOutput("pooled", binary_data=binary)],
                parameters={"content_type": "str", "custom": 7},
                request_compression_algorithm=coding,
                response_compression_algorithm=coding,
            )
            agree(result.as_numpy("pooled"), plain(url, TEXTS))


def triton_sends_what_a_tokenizer_gives(url, folder):
    import tritonclient.http as triton
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="np")
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    for datatype, dtype in (("INT64", np.int64), ("INT32", np.int32)):
        inputs = []
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            one = triton.InferInput(name, list(given[name].shape), datatype)
            one.set_data_from_numpy(given[name].astype(dtype))
            inputs.append(one)
        result = client.infer(MODEL, inputs, outputs=[triton.InferRequestedOutput("hidden")])
        hidden = result.as_numpy("hidden")
        mask = given["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        agree(mean / np.linalg.norm(mean, axis=1, keepdims=True), plain(url, TEXTS))


def kserve_sends_texts_in_a_column(url, _):
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    async def main():
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=1)) as client:
            for binary in (True, False):
                given = InferInput("text", [len(TEXTS), 1], "BYTES", parameters={"content_type": "str"})
                given.set_data_from_numpy(np.array([[text] for text in TEXTS], object), binary_data=binary)
                request = InferRequest(
                    MODEL,
                    [given],
                    parameters={"content_type": "str", "headers": {"x": "y"}},
                    request_outputs=[RequestedOutput("pooled", {"binary_data": binary})],
                )
                response = await client.infer(url, request, model_name=MODEL)
                agree(response.outputs[0].as_numpy().reshape(len(TEXTS), -1), plain(url, TEXTS))

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[3]](sys.argv[1], sys.argv[2])
