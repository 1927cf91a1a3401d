"""How far each dtype is from float64, and whether sentences keep their order.

    python -m benchmarks.precision [REPOSITORY] [--quick]

The reference is transformers' eager BERT in float64, weights and activations, on the same minilm. The text of
the errors is the licence's, in pieces of 3 to about 250 tokens; that of the order are a thousand sentences of
the reference which Python brings along (`pydoc_data.topics`): each is compared with all others by cosine, and
the order is held against float64's by Kendall's tau-b and by how many of the nearest ten are the same. Prints
the tables of docs/precision.md.
"""

import argparse
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.exact import Arrays, Exact
from benchmarks.report import save
from benchmarks.workload import whole_sentences
from models.errors import ModelError
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime

ROOT = Path(__file__).parents[1]
LENGTHS = (1, 4, 9, 16, 30, 60, 120, 180)  # words
DTYPES = ("float32", "bfloat16", "float16", "int8")
SENTENCES, NEAREST, BATCH = 1000, 10, 64
MOST_POOLED = {"float32": 1e-6, "bfloat16": 1.2e-3, "int8": 8e-3}


def pieces() -> list[str]:
    """Return real English of several lengths, three pieces each."""
    words = (ROOT / "LICENSE").read_text().split()
    chance = random.Random(0)
    starts = [(chance.randrange(len(words) - length), length) for length in LENGTHS for _ in range(3)]
    return [" ".join(words[at : at + length]) for at, length in starts]


def served(runtime: TorchRuntime, ids: NDArray[np.int64]) -> Arrays:
    """Return weights, hidden and pooled of a served model."""
    card = runtime.card("minilm")
    chosen = Selection(
        outputs=("weights", "hidden", "pooled"), layers=tuple(range(card.layers)), layer_axis=True
    )
    (answer,) = runtime.run([Item(card=card, input=Tokens(ids=ids), selection=chosen)]).answers
    assert isinstance(answer, Answer)
    made: Arrays = dict(answer.tensors)
    return made | {"pooled": made["pooled"][-1]}


def pooled(runtime: TorchRuntime, ids: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return [N, D] of many sequences, in batches."""
    card = runtime.card("minilm")
    chosen = Selection(outputs=("pooled",), layers=(card.layers - 1,))
    items = [Item(card=card, input=Tokens(ids=one), selection=chosen) for one in ids]
    rows = []
    for at in range(0, len(items), BATCH):
        for answer in runtime.run(items[at : at + BATCH]).answers:
            assert isinstance(answer, Answer)
            rows.append(answer.tensors["pooled"].astype(np.float64))
    return np.stack(rows)


def errors(made: list[Arrays], expected: list[Arrays]) -> dict[str, float]:
    """Return the largest and mean error of each output, and the largest 1 − cosine of pooled."""
    found: dict[str, float] = {}
    pairs = list(zip(made, expected, strict=True))
    for name in ("weights", "hidden", "pooled"):
        away = [np.abs(one[name] - true[name]) for one, true in pairs]
        found[f"{name}_max"] = float(max(one.max() for one in away))
        found[f"{name}_mean"] = float(np.concatenate([one.ravel() for one in away]).mean())
    cosines = []
    for one, true in pairs:
        vector = one["pooled"].astype(np.float64)
        cosines.append(vector @ true["pooled"] / np.linalg.norm(vector))
    found["one_minus_cosine"] = float(1 - min(cosines))
    return found


def order_kept(made: NDArray[np.float64], expected: NDArray[np.float64]) -> dict[str, float]:
    """Return how the order of all other sentences by cosine agrees, a sentence at a time: mean and least."""
    made = made / np.linalg.norm(made, axis=1, keepdims=True)
    taus, shared = [], []
    for number, (ours, true) in enumerate(zip(made @ made.T, expected @ expected.T, strict=True)):
        ours, true = np.delete(ours, number), np.delete(true, number)
        taus.append(kendalltau(ours, true).statistic)
        first, second = (set(np.argpartition(-row, NEAREST)[:NEAREST].tolist()) for row in (ours, true))
        shared.append(len(first & second) / NEAREST)
    return {
        "tau_mean": float(np.mean(taus)),
        "tau_least": float(min(taus)),
        "nearest_mean": float(np.mean(shared)),
        "nearest_least": float(min(shared)),
        "first_alike": float(np.mean(_first(made) == _first(expected))),
    }


def _first(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return of each sentence which other is the nearest."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(1)


def row(dtype: str, of: dict[str, float]) -> str:
    """Return one line of the table of errors."""
    cells = [f"`{dtype}`", f"{of['bytes_resident'] / 2**20:.0f} MiB"]
    names = ("weights_max", "weights_mean", "hidden_max", "hidden_mean", "pooled_max", "one_minus_cosine")
    return f"| {' | '.join(cells + [f'{of[name]:.1e}' for name in names])} |"


def order_row(dtype: str, of: dict[str, float]) -> str:
    """Return one line of the table of order."""
    taus = f"{of['tau_mean']:.5f} | {of['tau_least']:.4f}"
    nearest = f"{of['nearest_mean']:.3f} | {of['nearest_least']:.1f} | {of['first_alike']:.3f}"
    return f"| `{dtype}` | {taus} | {nearest} |"


ERROR_HEAD = (
    "| dtype | resident | weights, max | mean | hidden, max | mean | pooled, max | 1 − cosine, max |\n"
    "|---|---|---|---|---|---|---|---|"
)
ORDER_HEAD = (
    "| dtype | Kendall's tau, mean | least | nearest ten the same, mean | least | nearest the same |\n"
    "|---|---|---|---|---|---|"
)


def tables(found: dict[str, dict[str, float]]) -> str:
    """Return both tables."""
    rows = [row(dtype, of) for dtype, of in found.items()]
    order = [order_row(dtype, of) for dtype, of in found.items()]
    return "\n".join([ERROR_HEAD, *rows, "", ORDER_HEAD, *order])


def main() -> int:
    """Measure every dtype, print the tables, keep the result; return 1 where a limit is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", type=Path, nargs="?", default=ROOT / "repository")
    parser.add_argument("--quick", action="store_true", help="a hundred sentences and every third piece")
    parser.add_argument("--only", nargs="+", choices=DTYPES, default=DTYPES)
    chosen = parser.parse_args()
    exact = Exact(chosen.repository / "minilm")
    ids = exact.ids(pieces()[:: 3 if chosen.quick else 1])
    expected = [exact.layers(one) for one in ids]
    sentences = whole_sentences(SENTENCES // (10 if chosen.quick else 1))
    sentence_ids, true = exact.ids(sentences), exact.pooled(sentences)
    print(f"{len(ids)} pieces, {sum(map(len, ids))} tokens; {len(sentences)} sentences\n", flush=True)
    found = {}
    for dtype in chosen.only:
        try:
            runtime = TorchRuntime(chosen.repository, models=("minilm",), device="cpu", dtype=dtype)
        except (ModelError, KeyError) as why:
            print(f"left out: {dtype}: {why}")
            continue
        found[dtype] = {"bytes_resident": float(runtime.card("minilm").bytes_resident)}
        found[dtype] |= errors([served(runtime, one) for one in ids], expected)
        found[dtype] |= order_kept(pooled(runtime, sentence_ids), true)
    print(tables(found))
    wrong = {
        dtype for dtype, of in found.items() if dtype in MOST_POOLED and of["pooled_max"] > MOST_POOLED[dtype]
    }
    for dtype in wrong:
        print(
            f"{dtype}: an error of {found[dtype]['pooled_max']:.1e}, limit {MOST_POOLED[dtype]:.1e}: MISSED"
        )
    save("precision", {"sentences": len(sentences), "load_average": os.getloadavg()[0], "dtypes": found})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
