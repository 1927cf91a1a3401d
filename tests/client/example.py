"""What a caller writes, with everything the package exports; checked by mypy --strict, never run.

Each `type: ignore` is a mistake that must be found: mypy --strict complains of one that is not needed.
"""
# ruff: noqa: T201  a caller prints

import asyncio

import numpy as np
from numpy.typing import NDArray

from heed_client import (
    AsyncClient,
    Attended,
    AttendOptions,
    AttentionOptions,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    Edit,
    HeadSet,
    HeedError,
    Input,
    InvalidReply,
    InvalidRequest,
    ModelCard,
    NotAuthorized,
    NotFound,
    Overloaded,
    Refused,
    Replay,
    Result,
    Retries,
    TokenizedText,
    TooLarge,
    Unavailable,
)


def sentence_vectors(texts: list[str]) -> NDArray[np.floating]:
    with Client("http://127.0.0.1:8000", api_key="k", retries=Retries(attempts=2), timeout=10.0) as heed:
        result: Result = heed.attend("minilm", texts, layers=-1, outputs="pooled", deadline=1.5)
        timing: float = result.timing["compute"]
        print(f"{timing:.3f} s, {result.tokens} tokens by {result.model} {result.version}")
        return np.stack([one.pooled for one in result])


def longest(texts: list[str]) -> int:
    with Client() as heed:
        found: list[TokenizedText] = heed.tokenize("minilm", texts, add_special_tokens=False, deadline=1)
        ids: NDArray[np.int64] = found[0].ids
        return max([len(ids), *map(len, found)])


def heads_of(embeddings: NDArray[np.float32]) -> Attended:
    options: AttendOptions = {"heads": [0, 3], "rows": slice(0, 4), "dtype": "float16", "layers": "all"}
    options |= {"truncate": True, "priority": 1}
    crossed = Input(embeddings=embeddings, memory=embeddings, mask=np.ones(len(embeddings), bool))
    with Client() as heed:
        cards: list[ModelCard] = heed.models()
        [one] = heed.attend(cards[0].name, [crossed], **options)
        _: NDArray[np.floating] = one.weights
        return one


def silenced(text: str) -> list[str]:
    edits = [
        Edit.scale(0.0, heads=[(5, 1), (5, 5)]),
        Edit.block(layers=[2, 3], queries=[-1], keys=[(2, 4), "name"]),
        Edit.add(-4.6, heads="steering", keys={"outside": ["name"]}),
        Edit.pattern("previous", heads=[1], layers=0),
        Edit.pattern(np.eye(4, dtype=np.float32), heads=[(0, 0)]),
        Edit.set(np.zeros((1, 4, 8), np.float32), heads=[(0, 1)]),
        Edit.from_input(0, heads=HeadSet([(1, 2)]), queries=slice(2, None)),
    ]
    inputs: list[str | Input] = [
        text,
        Input(text=text, edits=edits, spans={"name": (0, 4)}, targets=[" Mary", 17]),
    ]
    with Client() as heed:
        kept, changed = heed.attend(
            "gpt2",
            inputs,
            outputs=["next", "mixed", "share"],
            heads=HeadSet([(5, 1), (7, 3)], weights=[0.5, 0.5]),
            rows="name",
            columns=["name"],
            reduce="mean",
            share={"of": "name", "over": ["name", (5, 9)]},
        )
        replayed: Replay = heed.replay("gpt2", text, " Paris")
        print(replayed.step(0).shape, kept.next_ids.shape, kept.edited, changed.edited)
        return [str(token) for token in changed.next_tokens or ()]


async def own_tensors(query: NDArray[np.float32]) -> Result:
    options: AttentionOptions = {"causal": True, "scale": None, "similarity": "cosine", "left_window": 3}
    options |= {"outputs": ["z", "top_k"], "top_k": 2}
    async with AsyncClient() as heed:
        return await heed.attention(query, query, query, mask=None, **options)


def mistakes(heed: Client) -> None:
    heed.attend("minilm", 3)  # type: ignore[arg-type]
    heed.attend("minilm", "text", dtype="float64")  # type: ignore[arg-type]
    heed.attend("minilm", "text", layer=1)  # type: ignore[call-arg]
    print(heed.attend("minilm", "text").z)  # type: ignore[attr-defined]
    Input(embedding=[[1.0]])  # type: ignore[call-arg]


def explained(error: HeedError) -> str:
    if isinstance(error, Overloaded | Unavailable):
        return f"again in {error.retry_after} s"
    if isinstance(error, TooLarge | InvalidRequest | NotFound | NotAuthorized | Refused):
        return f"{error.status} {error.code}: {error.message} ({error.request_id})"
    return "the network" if isinstance(error, ConnectionFailed | DeadlineExceeded | InvalidReply) else "?"


if __name__ == "__main__":
    try:
        print(sentence_vectors(["one", "two"]), heads_of(np.ones((2, 4), np.float32)).tokens)
        print(asyncio.run(own_tensors(np.ones((2, 4), np.float32)))[0].tensors.keys())
    except HeedError as error:
        print(explained(error))
