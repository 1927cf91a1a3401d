import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import packed
from models.scripted import scripted


def doubled(x: Tensor) -> Tensor:
    return x + x


def test_function_gives_the_same_as_it_is_written() -> None:
    quick = scripted(doubled)
    assert isinstance(quick, torch.jit.ScriptFunction)
    assert torch.equal(quick(torch.ones(3)), torch.full((3,), 2.0))


def test_what_torch_cannot_compile_runs_as_it_is_written() -> None:
    def strange(x: Tensor) -> Tensor:
        try:
            return x + x
        finally:
            x.zero_()

    assert scripted(strange) is strange


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    group=st.sampled_from([1, 3]),
    causal=st.booleans(),
)
def test_attention_of_short_sequences_is_bit_equal_either_way(
    lengths: list[int], group: int, causal: bool
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = sum(lengths)
    q = torch.randn(2, group, rows, 8, generator=generator)
    k, v = (torch.randn(2, rows, 8, generator=generator) for _ in range(2))
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    wanted = [True] * len(lengths)
    given_ = (q, k, v, starts, lengths, wanted, wanted, 0.3, causal, packed.ahead())
    as_script = scripted(packed.all_plainly)(*given_)
    as_written = packed.all_plainly(*given_)
    for ours, theirs in zip(as_script, as_written, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
