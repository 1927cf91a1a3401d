"""A typed client for Heed, the attention server.

    from heed_client import Client

    with Client("http://127.0.0.1:8000") as heed:
        [sentence] = heed.attend("minilm", "She sat on the bank of the river.", layers="all")
        sentence.weights  # [layers, heads, tokens, tokens]

Tensors travel as safetensors, both ways; a batch over the server's limits is split and put together again.

base       what both clients share
client     the two clients, whose methods wait or are awaited
edits      what is changed inside attention, one edit at a time
errors     what can go wrong, and what a caller can do about it
exchange   conversations with the server as generators, without I/O
flows      what the clients can do: list models, tokenize, attend, with a model or without
heads      (layer, head) pairs, with weights where they are mixed
inputs     what may be handed over as a sequence, and how it becomes tensors or JSON
options    what can be asked for, by the server's own names
parts      how the inputs of one call are cut into requests
pictures   attention as BertViz and CircuitsVis take it
replay     a generated answer read again, the attention of every step in one pass
results    what comes back: arrays by name for each sequence
servers/   one call at one server or several: whom to ask, elsewhere, again
tensors    the safetensors format with numpy
transport  between a flow's calls and httpx, and what came in a reply's place
"""

from heed_client.client import AsyncClient, Client
from heed_client.edits import Edit
from heed_client.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    HeedError,
    InvalidReply,
    InvalidRequest,
    NotAuthorized,
    NotFound,
    Overloaded,
    Refused,
    TooLarge,
    Unavailable,
)
from heed_client.exchange import Retries
from heed_client.heads import HeadSet
from heed_client.inputs import Input
from heed_client.options import AttendOptions, AttentionOptions
from heed_client.replay import Replay
from heed_client.results import Attended, ModelCard, Result, TokenizedText

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AttendOptions",
    "Attended",
    "AttentionOptions",
    "Client",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Edit",
    "HeadSet",
    "HeedError",
    "Input",
    "InvalidReply",
    "InvalidRequest",
    "ModelCard",
    "NotAuthorized",
    "NotFound",
    "Overloaded",
    "Refused",
    "Replay",
    "Result",
    "Retries",
    "TokenizedText",
    "TooLarge",
    "Unavailable",
]
