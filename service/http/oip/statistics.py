"""The statistics extension: what was asked of a model since the server began, and where its time went.

Source: Triton `docs/protocol/extension_statistics.md`. The time of a request is divided as it is there; that
of a batch is the time of each request in it. Nothing is cached here, and no numbers are kept by the size of a
batch.
"""

from typing import Any

from models.protocol import ModelCard
from service.metrics.inferences import ModelTally

NANOSECONDS = 1_000_000_000
PARTS = {"queue": "queue", "compute_input": "decode", "compute_infer": "compute", "compute_output": "encode"}


def model_statistics(card: ModelCard, tally: ModelTally | None) -> dict[str, Any]:
    """Return one model's entry of `model_stats`; without a tally nothing was asked of it yet."""
    tally = tally or ModelTally()

    def spent(stage: str, outcome: str) -> dict[str, int]:
        seconds = tally.seconds.get(stage, 0.0)
        return {"count": tally.requests.get(outcome, 0), "ns": round(seconds * NANOSECONDS)}

    kind, _, number = card.device.partition(":")
    return {
        "name": card.name,
        "version": card.version,
        "inference_count": tally.sequences,
        "execution_count": tally.batches,
        "inference_stats": {
            **{outcome: spent(outcome, outcome) for outcome in ("success", "fail")},
            **{name: spent(stage, "success") for name, stage in PARTS.items()},
        },
        "memory_usage": [
            {
                "type": "CPU" if kind == "cpu" else "GPU",
                "id": int(number or 0),
                "byte_size": card.bytes_resident,
            }
        ],
    }
