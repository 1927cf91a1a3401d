"""A generated answer read again: the attention of every generated step, in one pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heed_client.exchange import Deadline, Flow
from heed_client.flows import Session, attend
from heed_client.inputs import Input
from heed_client.parts import Sent
from heed_client.results import Attended, Result

__all__ = ["Replay", "Words", "joined", "replay"]

Words: TypeAlias = str | NDArray[np.integer[Any]] | Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What each step of a generation attended to, as it was computed then.

    `attended` has one row a generated token: row i is the position from which token i was predicted, whose
    keys are the `prompt_tokens` and the i tokens before it; keys after them weigh 0. Its `tokens`, of texts,
    are those of prompt and answer.
    """

    attended: Attended
    prompt_tokens: int

    def step(self, number: int) -> NDArray[np.floating[Any]]:
        """Return the weights of one step, without the keys that were not there yet: […, keys]."""
        weights = self.attended.weights
        if not 0 <= number < weights.shape[-2]:
            raise IndexError(f"step {number} is none of the {weights.shape[-2]}, from 0")
        return weights[..., number, : self.prompt_tokens + number]


def replay(
    session: Session,
    path: str,
    prompt: Words,
    answer: Words,
    *,
    options: Mapping[str, Any],
    deadline: Deadline,
    model_name: str,
) -> Flow[Replay]:
    """Ask for the rows that predicted the answer's tokens; texts are tokenized together, by the server."""

    def ask(one: Input, options: Mapping[str, Any]) -> Flow[Result]:
        sent = [Sent(tensors=one.arrays(), spoken=one.as_json(), edits=tuple(one.edits))]
        return attend(session, path, sent, options=options, deadline=deadline, model_name=model_name)

    if isinstance(prompt, str) and isinstance(answer, str):
        one = Input(text=prompt + answer)
        first, total = yield from _places(ask(one, {"outputs": ["z"], "layers": 0, "rows": [0]}), prompt)
    elif isinstance(prompt, str) or isinstance(answer, str):
        raise TypeError("give prompt and answer both as texts, or both as token ids")
    else:
        one = Input(token_ids=joined(prompt, answer))
        first, total = len(prompt), len(prompt) + len(answer)
    if first < 1 or first >= total:
        raise ValueError("a replay needs a token or more of prompt, and of answer")
    rows = {"start": first - 1, "stop": total - 1}
    result = yield from ask(one, {**options, "rows": rows})
    return Replay(attended=result[0], prompt_tokens=first)


def joined(prompt: Any, answer: Any) -> NDArray[np.int64]:
    """Return the token ids of prompt and answer, one after another."""
    return np.concatenate([np.asarray(prompt, dtype=np.int64), np.asarray(answer, dtype=np.int64)])


def _places(asking: Flow[Result], prompt: str) -> Flow[tuple[int, int]]:
    """Return how many tokens stand before the answer's first, and how many there are."""
    [found] = yield from asking
    assert found.offsets is not None
    ours = [place for place, (start, end) in enumerate(found.offsets) if end > len(prompt) and end > start]
    return (ours[0], ours[-1] + 1) if ours else (0, 0)
