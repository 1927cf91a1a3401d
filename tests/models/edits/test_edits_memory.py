"""What edits hold: next to nothing, whatever the length of a sequence."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from models.attention.problem import prepare
from models.attention.reductions import derive
from models.compiled import native
from models.device.steps import finish
from models.edit import Edit
from models.edits.layer import edits_by_layer
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import ModelSpec
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

LENGTH, MIB = 8192, 1 << 20
SPEC = ModelSpec(d_model=16, heads=2, layers=2, attention=AttentionSpec(causal=True), residual=True)
EVERY_HEAD = tuple((layer, head) for layer in range(2) for head in range(2))
EDITS = {
    "block": Edit(verb="block", at=EVERY_HEAD, queries=((LENGTH - 100, LENGTH),), keys=((5, 4000),)),
    "block, every other key": Edit(
        verb="block", at=EVERY_HEAD, keys=tuple((n, n + 1) for n in range(0, LENGTH, 2))
    ),
    "add": Edit(verb="add", at=EVERY_HEAD, keys=((0, 100),), value=-3.0),
    "uniform": Edit(verb="pattern", at=EVERY_HEAD, value="uniform"),
    "scale": Edit(verb="scale", at=EVERY_HEAD, value=0.5),
}


class Peak:
    """The most bytes that torch has held at once, over those at the beginning."""

    def __enter__(self) -> "Peak":
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(*error)
        assert self._profile.profiler is not None
        events = self._profile.profiler.kineto_results.events()
        changes = sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]")
        self.bytes = int(np.cumsum([nbytes for _, nbytes in changes]).max())


@pytest.fixture(scope="module")
def stack() -> Stack:
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(SPEC).items()}
    return Stack(SPEC, parameters, torch.device("cpu"))


def peak_of(stack: Stack, *edits: Edit) -> tuple[int, np.ndarray]:
    card = fake_card(d_model=16, heads=2, key_heads=2, d_k=8, d_v=8, layers=2, max_tokens=None)
    rows = np.random.default_rng(0).standard_normal((LENGTH, 16), dtype=np.float32)
    chosen = Selection(outputs=("hidden", "entropy", "received"), layers=(1,), rows=(LENGTH - 1,))
    item = Item(card=card, input=Tokens(embeddings=rows), selection=chosen, edits=edits)
    with torch.inference_mode(), Peak() as peak:
        (answer,) = stack.run([item])
    assert isinstance(answer, Answer)
    return peak.bytes, answer.tensors["hidden"]


@pytest.mark.skipif(native.native() is None, reason="Heed was installed without a C compiler")
def test_at_8192_tokens_edits_hold_at_most_a_mebibyte(stack: Stack) -> None:
    before, plain = peak_of(stack)
    assert before > MIB  # rows of x, q, k and v: something is measured
    for name, edit in EDITS.items():
        after, hidden = peak_of(stack, edit)
        assert after - before <= MIB, (name, before, after)
        assert not np.array_equal(hidden, plain), name


def test_without_compiled_code_they_hold_no_more_than_a_block_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.attention.blocks.BLOCK_ELEMENTS", {"cpu": 1 << 16, "cuda": 1})
    q, k, v = (torch.randn(2, 1024, 8, generator=torch.Generator().manual_seed(0)) for _ in range(3))
    peaks = []
    for edit in (None, *EDITS.values()):
        edits = None if edit is None else edits_by_layer([edit])[0]
        problem = prepare(q, k, v, spec=AttentionSpec(causal=True), edits=edits)
        with torch.inference_mode(), Peak() as peak:
            finish(derive(problem, None, Selection(outputs=("received",))))
        peaks.append(peak.bytes)
    whole = 2 * 1024 * 1024 * 4
    assert max(peaks[1:]) - peaks[0] < whole / 4, peaks
