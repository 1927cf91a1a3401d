"""`/v1/embeddings` as its users call it: OpenAI's own client, unmodified, and a real model on a socket."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from tests.real_server import Server, serving

TOLERANCE = 1e-5
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Two hundred pieces of real English, the licence's, none cut."""
    words = (ROOT / "LICENSE").read_text().split()
    chance = random.Random(2)
    lengths = [chance.choice((1, 2, 3, 5, 8, 12, 16, 60)) for _ in range(200)]
    starts = [chance.randrange(len(words) - length) for length in lengths]
    return [" ".join(words[at : at + length]) for at, length in zip(starts, lengths, strict=True)]


@pytest.fixture(scope="module")
def expected(minilm_folder: Path, texts: list[str]) -> np.ndarray:
    """What sentence-transformers makes of the same folder, in its own batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the server has the machine's cores in use
    model = SentenceTransformer(str(minilm_folder), device="cpu")
    vectors: np.ndarray = model.encode(texts)
    torch.set_num_threads(threads)
    return vectors


def test_200_sentences_equal_sentence_transformers(
    client: openai.OpenAI, texts: list[str], expected: np.ndarray
) -> None:
    reply = client.embeddings.create(model="minilm", input=texts)  # the client asks for base64
    assert [one.index for one in reply.data] == list(range(200))
    actual = np.array([one.embedding for one in reply.data])
    assert actual.shape == expected.shape == (200, 384)
    assert np.abs(actual - expected).max() <= TOLERANCE
    floats = client.embeddings.create(model="minilm", input=texts[:20], encoding_format="float")
    assert np.abs(np.array([one.embedding for one in floats.data]) - expected[:20]).max() <= TOLERANCE


def test_two_http_processes_give_the_same(repository: Path, texts: list[str], expected: np.ndarray) -> None:
    with (
        serving(repository, "--http-workers", "2") as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one,
    ):
        reply = one.embeddings.create(model="minilm", input=texts)
    assert np.abs(np.array([one.embedding for one in reply.data]) - expected).max() <= TOLERANCE


def test_the_client_lists_models_counts_tokens_and_reads_refusals(client: openai.OpenAI) -> None:
    assert [one.id for one in client.models.list()] == ["minilm"]
    reply = client.embeddings.create(model="minilm", input="three little words", dimensions=384)
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 5
    with pytest.raises(openai.NotFoundError) as unknown:
        client.embeddings.create(model="none", input="a")
    assert unknown.value.code == "unknown_model"
    with pytest.raises(openai.UnprocessableEntityError, match="384"):
        client.embeddings.create(model="minilm", input="a", dimensions=64)


def test_token_ids_of_the_models_own_tokenizer_give_the_texts_embedding(
    client: openai.OpenAI, minilm_folder: Path, texts: list[str], expected: np.ndarray
) -> None:
    ids = AutoTokenizer.from_pretrained(minilm_folder)(texts[:3])["input_ids"]
    reply = client.embeddings.create(model="minilm", input=ids)
    assert np.abs(np.array([one.embedding for one in reply.data]) - expected[:3]).max() <= TOLERANCE
