"""`GET /info`: the model that answers and the server's limits, as text-embeddings-inference says them.

Source: text-embeddings-inference `router/src/lib.rs`, `Info`.
"""

from typing import Any

from models.protocol import ModelCard
from service import __version__
from service.http.context import Context
from service.http.texts.inputs import MOST_INPUTS

POOLINGS = {"last": "last_token"}  # what it calls otherwise


def info_of(card: ModelCard, context: Context) -> dict[str, Any]:
    """Return the body of `/info`."""
    limits = context.limits
    asked = (card.max_text_tokens, card.max_tokens, limits.max_sequence_tokens)
    longest = min((limit for limit in asked if limit is not None), default=limits.max_batch_tokens)
    mode = card.pooled.pooling.partition(",")[0] if card.pooled else "none"
    return {
        "model_id": card.name,
        "model_sha": None,
        "model_dtype": card.dtype,
        "served_model_name": card.name,
        "model_type": {"embedding": {"pooling": POOLINGS.get(mode, mode)}},
        "max_concurrent_requests": limits.max_queued_requests,
        "max_input_length": longest,
        "max_batch_tokens": limits.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": max(1, min(MOST_INPUTS, limits.max_batch_tokens // longest)),
        "auto_truncate": limits.truncate,
        "tokenization_workers": context.places.count,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }
