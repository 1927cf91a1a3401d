"""How far float32, bfloat16 and float16 are from float64: `python -m benchmarks.precision [REPOSITORY]`.

The reference is transformers' eager BERT in float64, weights and activations, on the same minilm; the text is
the licence's, in pieces of 3 to about 250 tokens. Prints the table of docs/precision.md.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertModel

from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime

ROOT = Path(__file__).parents[1]
LENGTHS = (1, 4, 9, 16, 30, 60, 120, 180)  # words
Arrays = dict[str, NDArray[np.floating]]


def pieces() -> list[str]:
    """Return real English of several lengths, three pieces each."""
    words = (ROOT / "LICENSE").read_text().split()
    chance = random.Random(0)
    starts = [(chance.randrange(len(words) - length), length) for length in LENGTHS for _ in range(3)]
    return [" ".join(words[at : at + length]) for at, length in starts]


def reference(model: BertModel, ids: NDArray[np.int64]) -> Arrays:
    """Return weights [L, H, T, T], hidden [L, T, D] and pooled [D] in float64."""
    with torch.inference_mode():
        out = model(torch.from_numpy(ids)[None], output_attentions=True, output_hidden_states=True)
    hidden = torch.cat(out.hidden_states[1:])
    pooled = torch.nn.functional.normalize(hidden[-1].mean(dim=0), dim=0)
    return {
        "weights": torch.cat(out.attentions).numpy(),
        "hidden": hidden.numpy(),
        "pooled": pooled.numpy(),
    }


def served(runtime: TorchRuntime, ids: NDArray[np.int64]) -> Arrays:
    """Return the same from a served model."""
    card = runtime.card("minilm")
    chosen = Selection(
        outputs=("weights", "hidden", "pooled"), layers=tuple(range(card.layers)), layer_axis=True
    )
    (answer,) = runtime.run([Item(card=card, input=Tokens(ids=ids), selection=chosen)]).answers
    assert isinstance(answer, Answer)
    made: Arrays = dict(answer.tensors)
    return made | {"pooled": made["pooled"][-1]}


def row(dtype: str, made: list[Arrays], expected: list[Arrays], *, nbytes: int) -> str:
    """Return one line of the table."""
    cells = [f"`{dtype}`", f"{nbytes / 2**20:.0f} MiB"]
    for name in ("weights", "hidden"):
        away = [np.abs(one[name] - true[name]) for one, true in zip(made, expected, strict=True)]
        mean = np.concatenate([one.ravel() for one in away]).mean()
        cells += [f"{max(one.max() for one in away):.1e}", f"{mean:.1e}"]
    pairs = list(zip(made, expected, strict=True))
    cells.append(f"{max(np.abs(one['pooled'] - true['pooled']).max() for one, true in pairs):.1e}")
    cosines = [
        one["pooled"].astype(np.float64) @ true["pooled"] / np.linalg.norm(one["pooled"].astype(np.float64))
        for one, true in pairs
    ]
    cells.append(f"{1 - min(cosines):.1e}")
    return f"| {' | '.join(cells)} |"


def main(repository: Path) -> None:
    """Measure every dtype and print the table."""
    model = BertModel.from_pretrained(repository / "minilm", attn_implementation="eager").double().eval()
    tokenizing = TorchRuntime(repository, models=("minilm",), device="cpu", dtype="float32")
    card = tokenizing.card("minilm")
    ids = [tokenizing.tokenize(card, piece).ids for piece in pieces()]
    expected = [reference(model, one) for one in ids]
    tokens = sum(map(len, ids))
    print(f"{len(ids)} pieces, {tokens} tokens, {card.layers} layers of {card.heads} heads\n")
    print("| dtype | resident | weights, max | mean | hidden, max | mean | pooled, max | 1 − cosine, max |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16", "float16"):
        runtime = TorchRuntime(repository, models=("minilm",), device="cpu", dtype=dtype)
        made = [served(runtime, one) for one in ids]
        print(row(dtype, made, expected, nbytes=runtime.card("minilm").bytes_resident))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "repository"))
