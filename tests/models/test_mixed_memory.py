"""What is mixed of many heads of a long sequence takes no more memory than a block of rows of weights."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.attention.blocks import BLOCK_ELEMENTS

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec
from models.outputs import Mix, Selection
from models.protocol import Answer, Item, Tokens
from models.spec import ModelSpec
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

TOKENS, HEADS, LAYERS = 8192, 8, 4

def mib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

torch.set_num_threads(1)
spec = ModelSpec(
    d_model=32, heads=HEADS, layers=LAYERS, attention=AttentionSpec(causal=True), residual=True
)
card = fake_card(d_model=32, heads=HEADS, key_heads=HEADS, d_k=4, d_v=4, layers=LAYERS)
parameters = {name: torch.from_numpy(array) for name, array in random_parameters(spec).items()}
stack = Stack(spec, parameters, torch.device("cpu"))
x = np.random.default_rng(0).standard_normal((TOKENS, 32), dtype=np.float32)
pairs = tuple((layer, head) for layer in range(LAYERS) for head in range(HEADS))
columns = tuple((at, at + 1024) for at in range(0, TOKENS, 1024))
mix = Mix(pairs=pairs, weights=(1 / len(pairs),) * len(pairs), columns=columns)

def ask(outputs, tokens, mix):
    rows = tuple(range(tokens // 4 * 3, tokens))  # a quarter, of many blocks
    item = Item(
        card=card,
        input=Tokens(embeddings=x[:tokens]),
        selection=Selection(outputs=outputs, layers=(LAYERS - 1,), mix=mix, rows=rows),
    )
    with torch.inference_mode():
        (answer,) = stack.run([item])
    assert isinstance(answer, Answer)

ask(("z", "mixed"), 64, Mix(pairs=pairs, weights=mix.weights))  # what is made once
base = mib("VmHWM")
ask((sys.argv[1],), TOKENS, mix if sys.argv[1] == "mixed" else None)
print(mib("VmHWM") - base)
"""


def grown(output: str) -> float:
    """MiB that a fresh process takes more while it answers."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, output], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_a_mixture_of_32_pairs_holds_no_more_than_a_block_of_rows() -> None:
    block = BLOCK_ELEMENTS["cpu"] * 4 / 2**20
    assert grown("mixed") <= grown("z") + block
