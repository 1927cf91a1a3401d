"""What a head set costs beside z: `mixed` and `share` of 16 pairs of a model of six layers, d 384, 12 heads.

    python -m benchmarks.heads [--quick]

In process, two threads, a sequence at a time: z of the last layer that a pair is of, of the last 20 rows, and
with it or in its place what is mixed over 8 spans of keys, the shares of two of them, profiles of all heads.
Turns are taken; ratios are of the least of several. The status is 1 where `mixed` of the last 20 rows costs
more than 1.15 of z alone.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from benchmarks.report import save
from benchmarks.turns import least_within, with_threads
from models.folders.parameters import parameter_shapes
from models.outputs import Mix, Selection, Share
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from models.spec import EmbeddingSpec, FeedForwardSpec, ModelSpec, NormSpec

LENGTHS = (512, 4096)
THREADS, ROWS, SPANS, WORDS = 2, 20, 8, 1000
MOST = 1.15
SECONDS = 60.0  # of the turns at a length
SPEC = ModelSpec(
    d_model=384,
    heads=12,
    layers=6,
    residual=True,
    norm=NormSpec(kind="layer"),
    feed_forward=FeedForwardSpec(d_ff=1536),
    embedding=EmbeddingSpec(vocabulary=WORDS, norm=True),
)
PAIRS = tuple((layer, (5 * layer + 7 * at) % 12) for layer in range(6) for at in range(3))[:16]


def model() -> TorchRuntime:
    """Return a runtime with the model, its weights random."""
    chance = np.random.default_rng(0)
    weights = {
        name: (chance.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in parameter_shapes(SPEC).items()
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(SPEC.to_config()))
        save_file(weights, folder / "model.safetensors")
        return TorchRuntime(Path(name), models=None, device="cpu", dtype="float32")


def selections(tokens: int) -> dict[str, Selection]:
    """Return what is asked, by name."""
    at = [round(tokens * number / SPANS) for number in range(SPANS + 1)]
    columns = tuple(pairwise(at))
    mix = Mix(pairs=PAIRS, weights=(1 / len(PAIRS),) * len(PAIRS), columns=columns)
    share = Share(of=columns[:1], over=columns[:2])
    last = tuple(range(tokens - ROWS, tokens))
    z = Selection(outputs=("z",), layers=(PAIRS[-1][0],), rows=last, mix=mix, share=share)
    return {
        "z": z,
        "mixed": with_outputs(z, "mixed"),
        "z, mixed": with_outputs(z, "z", "mixed"),
        "z, share": with_outputs(z, "z", "share", pairs=True),
        "z, mixed, all rows": with_outputs(z, "z", "mixed", rows=None),
        "z, profiles": with_outputs(z, "z", "head_profile", rows=None),
    }


def with_outputs(
    z: Selection, *outputs: str, pairs: bool = False, rows: tuple[int, ...] | None = (-1,)
) -> Selection:
    """Return the selection with other outputs; `rows` None: all."""
    return Selection(
        outputs=outputs,
        layers=z.layers,
        rows=z.rows if rows else None,
        pairs=PAIRS if pairs else None,
        mix=z.mix if "mixed" in outputs else None,
        share=z.share,
    )


def answering(runtime: TorchRuntime, tokens: int, selection: Selection) -> Callable[[], None]:
    """Return what asks for a selection of one sequence, on all slots."""
    ids = np.random.default_rng(tokens).integers(0, WORDS, tokens)
    item = Item(card=runtime.card("model"), input=Tokens(ids=ids), selection=selection)

    def ask() -> None:
        (answer,) = runtime.run([item], slots=runtime.slots).answers
        assert isinstance(answer, Answer), answer

    return ask


def measure(runtime: TorchRuntime, tokens: int, seconds: float) -> dict[str, float]:
    """Return the least milliseconds of each."""
    ways = {name: answering(runtime, tokens, chosen) for name, chosen in selections(tokens).items()}
    ways = {name: with_threads(way, THREADS) for name, way in ways.items()}
    least = least_within(ways, seconds, least_rounds=3)
    return {name: 1e3 * found for name, found in least.items()}


def main() -> int:
    """Print the ratios, keep the result; return 1 where the limit is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="512 tokens, a few seconds")
    chosen = parser.parse_args()
    rows = []
    with torch.inference_mode():
        runtime = model()
        for tokens in LENGTHS[:1] if chosen.quick else LENGTHS:
            least = measure(runtime, tokens, 3.0 if chosen.quick else SECONDS)
            ratios = {name: spent / least["z"] for name, spent in least.items()}
            met = max(ratios["mixed"], ratios["z, mixed"]) <= MOST
            print(f"{tokens} tokens: z {least['z']:.1f} ms; of that", flush=True)
            for name, ratio in ratios.items():
                print(f"  {name:20} {ratio:6.3f}")
            print(f"  {'met' if met else 'MISSED'}", flush=True)
            rows.append({"tokens": tokens, "milliseconds": least, "ratios": ratios, "met": met})
    save("heads", {"rows": rows})
    return 0 if all(row["met"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
