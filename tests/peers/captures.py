"""interp-engine, unmodified: what it captures of two models at each of its points that has a name with us.

    python -m tests.peers.captures REPOSITORY OUT.npz NAME ...

Runs where interp-engine is installed. `NAME/POINT` [L, …], a point's name as interp-engine has it.
"""

import asyncio
import sys
from pathlib import Path

import numpy as np
from interp_engine import load_model

from tests.peers.questions import IDS

POINTS = ("attn_probs", "attn_scores", "z", "attn_out", "resid_pre", "resid_mid", "mlp_out", "resid_post")


async def capture(repository: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return every point of every layer of every model."""
    found = {}
    for name in names:
        model = load_model(str(repository / name), backend="eager", dtype="float32", device="cpu")
        for point in POINTS:
            asked = [(point, layer) for layer in range(model.n_layers)]
            got = await model.capture(IDS, asked)
            found[f"{name}/{point}"] = np.stack([one.numpy() for one in got.values()])
        got = await model.capture(IDS, ["embeddings", "final_norm", "lm_head"])
        found |= {f"{name}/{address}": one.numpy() for address, one in got.items()}
    return found


if __name__ == "__main__":
    np.savez(Path(sys.argv[2]), **asyncio.run(capture(Path(sys.argv[1]), sys.argv[3:])))
