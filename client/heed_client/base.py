"""What both clients share: the flows of one session, ready to be driven."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from heed_client import flows
from heed_client.exchange import Deadline, Flow, Retries
from heed_client.inputs import Arrays, Inputs, as_inputs, as_qkv
from heed_client.options import plain
from heed_client.parts import Sent
from heed_client.replay import Replay, Words, replay
from heed_client.results import Result, TokenizedText
from heed_client.servers.choice import Servers

__all__ = ["Flows"]


class Flows:
    """One session: its servers, how to retry, the clock, and what servers have told of their limits."""

    def __init__(
        self, urls: str | Sequence[str], retries: Retries | None, clock: Callable[[], float]
    ) -> None:
        self._session = flows.Session(Servers(urls, clock), retries or Retries(), clock)

    @property
    def urls(self) -> list[str]:
        """The addresses of its servers."""
        return self._session.servers.urls

    def _deadline(self, seconds: float | None) -> Deadline:
        return Deadline.after(seconds, clock=self._session.clock)

    def _attend(
        self, model: str, inputs: Inputs, deadline: float | None, options: Mapping[str, Any]
    ) -> Flow[Result]:
        found = as_inputs(inputs)
        return flows.attend(
            self._session,
            _path(model),
            [Sent(tensors=one.arrays(), spoken=one.as_json(), edits=tuple(one.edits)) for one in found],
            options=plain(options),
            deadline=self._deadline(deadline),
            model_name=model,
        )

    def _replay(
        self, model: str, prompt: Words, answer: Words, deadline: float | None, options: Mapping[str, Any]
    ) -> Flow[Replay]:
        return replay(
            self._session,
            _path(model),
            prompt,
            answer,
            options=plain({"layers": "all", "outputs": "weights", **options}),
            deadline=self._deadline(deadline),
            model_name=model,
        )

    def _tokenize(
        self, model: str, texts: str | Sequence[str], deadline: float | None, **options: bool
    ) -> Flow[list[TokenizedText]]:
        found = [texts] if isinstance(texts, str) else texts
        until = self._deadline(deadline)
        return flows.tokenize(self._session, model, found, options=options, deadline=until)

    def _attention(
        self,
        tensors: Mapping[str, Arrays | None],
        deadline: float | None,
        options: Mapping[str, Any],
    ) -> Flow[Result]:
        return flows.attend(
            self._session,
            "/v1/attention",
            [Sent(tensors=arrays, spoken={}) for arrays in as_qkv(tensors)],
            options=plain(options),
            deadline=self._deadline(deadline),
        )


def _path(model: str) -> str:
    return f"/v1/models/{quote(model, safe='')}/attend"
