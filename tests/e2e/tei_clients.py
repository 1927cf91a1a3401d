"""What users of text-embeddings-inference's clients do, against a running server on the real minilm.

    python tei_clients.py URL FOLDER CASE

Runs in an environment of its own, as text_clients.py does. What is right is what `/v1/embeddings` gives.
"""

import asyncio
import json
import os
import sys
import urllib.request

os.environ |= {"DO_NOT_TRACK": "1", "HAYSTACK_TELEMETRY_ENABLED": "False"}

import numpy as np

TEXTS = ["she sat on the bank of the river", "attention", "Füße, 漢字 and \U0001f600"]
LONG = "river bank " * 300  # 600 tokens, over what the model takes


def ask(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def plain(url, texts, **more):
    """The same question to `/v1/embeddings`, which names no model either: one row a text."""
    data = ask(url, "/v1/embeddings", {"input": texts, **more})["data"]
    return np.array([one["embedding"] for one in data], np.float32)


def same(actual, expected):
    actual = np.array(actual, np.float32)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert np.array_equal(actual, expected), np.abs(actual - expected).max()


def hidden(url, text):
    body = {"inputs": [{"text": text}], "outputs": ["hidden"]}
    return np.array(ask(url, "/v1/models/minilm/attend", body)["outputs"][0]["hidden"], np.float32)


def llamaindex_embeds(url, _):
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    client = TextEmbeddingsInference(model_name="minilm", base_url=url, auth_token="none")
    same(client.get_text_embedding_batch(TEXTS), plain(url, TEXTS))
    same(client.get_query_embedding(LONG), plain(url, LONG, truncate=True)[0])
    same(asyncio.run(client.aget_text_embedding(TEXTS[0])), plain(url, TEXTS)[0])


def huggingface_hub_embeds_and_compares(url, _):
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=url, token="none")
    for more in ({}, {"normalize": True}, {"truncate": True, "truncation_direction": "Left"}):
        same(client.feature_extraction(TEXTS[0], **more), plain(url, TEXTS[:1]))
    vectors = plain(url, TEXTS).astype(np.float64)
    found = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(found, vectors[1:] @ vectors[0] / lengths[1:] / lengths[0], atol=1e-7)


def haystack_embeds_texts_and_documents(url, _):
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.huggingface_api import (
        HuggingFaceAPIDocumentEmbedder,
        HuggingFaceAPITextEmbedder,
    )

    common = {
        "api_type": "text_embeddings_inference",
        "api_params": {"url": url},
        "token": Secret.from_token("none"),
    }
    same(HuggingFaceAPITextEmbedder(**common).run(TEXTS[0])["embedding"], plain(url, TEXTS)[0])
    found = HuggingFaceAPIDocumentEmbedder(**common, progress_bar=False).run(
        [Document(content=text) for text in TEXTS]
    )
    same([one.embedding for one in found["documents"]], plain(url, TEXTS))


def tei_client_does_all_that_it_can(url, folder):
    from tei_client.clients.http_client import HttpClient
    from transformers import AutoTokenizer

    client = HttpClient(url)
    info = client.info()
    assert client.health()
    assert (info.server_model_id, info.server_model_metadata.pooling) == ("minilm", "mean")
    same(client.embed(TEXTS), plain(url, TEXTS))
    same(asyncio.run(client.async_embed(TEXTS[0])), plain(url, TEXTS[:1]))
    assert ask(url, "/embeddings", {"input": TEXTS}) == ask(url, "/v1/embeddings", {"input": TEXTS})
    for found, text in zip(client.embed_all(TEXTS), TEXTS, strict=True):
        same(found, hidden(url, text))
    theirs = AutoTokenizer.from_pretrained(folder)
    for found, text in zip(client.tokenize(TEXTS), TEXTS, strict=True):
        assert found.get_ids() == theirs(text)["input_ids"]
        assert [token.special for token in found.tokens] == [True] + [False] * (len(found.tokens) - 2) + [
            True
        ]
        for token in found.tokens[1:-1]:
            assert text.encode()[token.start : token.stop].decode() == token.text
    (bare,) = client.tokenize(TEXTS[0], add_special_tokens=False)
    assert bare.get_ids() == theirs(TEXTS[0], add_special_tokens=False)["input_ids"]
    assert client.decode(theirs(TEXTS[0])["input_ids"]) == [TEXTS[0]]
    (marked,) = client.decode([theirs(TEXTS[0])["input_ids"]], skip_special_tokens=False)
    assert marked == f"[CLS] {TEXTS[0]} [SEP]"
    ids = theirs(TEXTS)["input_ids"]
    same(client.embed(ids), plain(url, ids))
    assert client.prompt_names() == [""]  # its reading of a list of none


def dify_embeds_what_it_has_cut_itself(url, _):
    """Dify's calls in its order: /info, /tokenize, what is too long cut, /v1/embeddings in batches."""
    info = ask(url, "/info")
    assert list(info["model_type"]) == ["embedding"]
    longest, most = info["max_input_length"], info["max_client_batch_size"]
    texts = [*TEXTS, LONG, *["a sentence"] * most]
    cut = []
    for text, tokens in zip(texts, ask(url, "/tokenize", {"inputs": texts}), strict=True):
        if len(tokens) >= longest:
            text = text[: tokens[longest - 21]["start"]]
        cut.append(text)
    assert (len(ask(url, "/tokenize", {"inputs": LONG})[0]), longest) == (602, 256)
    found = []
    for at in range(0, len(cut), most):
        reply = ask(url, "/v1/embeddings", {"input": cut[at : at + most]})
        assert reply["model"] == "minilm"
        found += [one["embedding"] for one in reply["data"]]
    assert len(found) == len(texts)
    same(found[: len(TEXTS)], plain(url, TEXTS))


if __name__ == "__main__":
    globals()[sys.argv[3]](sys.argv[1], sys.argv[2])
