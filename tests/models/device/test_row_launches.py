"""What a block launches on a GPU, with and without kernels over rows, counted on tensors without numbers."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.encoder.rowwise import launch, trial
from models.mechanism import AttentionSpec, PositionSpec, ProjectionSpec
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.models.device.test_launches import META, fetched, launches, ragged  # noqa: F401

ROTARY = PositionSpec(kind="rotary")
RMS = NormSpec(kind="rms", placement="pre")
UNBIASED = ProjectionSpec(bias=False, output_bias=False)


def gated(d_ff: int, activation: Any) -> FeedForwardSpec:
    return FeedForwardSpec(d_ff=d_ff, kind="gated", activation=activation, bias=False)


BLOCKS: dict[str, dict[str, Any]] = {
    "bert": {
        "d_model": 768,
        "heads": 12,
        "norm": NormSpec(kind="layer"),
        "feed_forward": FeedForwardSpec(d_ff=3072),
    },
    "llama": {
        "d_model": 1024,
        "heads": 16,
        "kv_heads": 4,
        "positions": ROTARY,
        "attention": AttentionSpec(causal=True),
        "projection": UNBIASED,
        "norm": RMS,
        "feed_forward": gated(2816, "silu"),
    },
    "modernbert": {
        "d_model": 768,
        "heads": 12,
        "positions": ROTARY,
        "projection": UNBIASED,
        "norm": NormSpec(kind="layer", placement="pre", bias=False),
        "feed_forward": gated(1152, "gelu"),
    },
    "gemma 2": {
        "d_model": 1024,
        "heads": 8,
        "kv_heads": 4,
        "d_k": 128,
        "positions": ROTARY,
        "attention": AttentionSpec(causal=True),
        "projection": UNBIASED,
        "norm": NormSpec(kind="rms", placement="sandwich", unit_offset=True),
        "feed_forward": gated(4096, "gelu_tanh"),
    },
    "qwen 3": {
        "d_model": 1024,
        "heads": 16,
        "kv_heads": 8,
        "d_k": 128,
        "positions": ROTARY,
        "attention": AttentionSpec(causal=True),
        "projection": ProjectionSpec(bias=False, output_bias=False, qk_norm="rms"),
        "norm": RMS,
        "feed_forward": gated(3072, "silu"),
    },
    "gpt-neox": {
        "d_model": 768,
        "heads": 12,
        "parallel": True,
        "positions": PositionSpec(kind="rotary", rotary_fraction=0.25),
        "norm": NormSpec(kind="layer", placement="pre"),
        "feed_forward": FeedForwardSpec(d_ff=3072),
    },
    "clip": {
        "d_model": 768,
        "heads": 12,
        "norm": NormSpec(kind="layer", placement="pre"),
        "feed_forward": FeedForwardSpec(d_ff=3072, activation="quick_gelu"),
    },
}


@pytest.fixture
def launched(fetched: list[int], monkeypatch: pytest.MonkeyPatch) -> Counter[str]:  # noqa: F811
    """Meta tensors pass for a GPU's, where kernels over rows passed their trial; what is launched of them."""
    found: Counter[str] = Counter()

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert all(one > 0 for one in grid)

            def launched(*arguments: Any, **_constants: Any) -> None:
                assert all(one.device == META for one in arguments if isinstance(one, torch.Tensor))
                found[self.name] += 1

            return launched

    monkeypatch.setattr(trial, "launched_on", lambda device: device == META)
    monkeypatch.setattr(trial, "agrees", lambda *_: True)
    monkeypatch.setattr(launch, "kernel", Kernel)
    return found


def of_a_block(name: str, launched: Counter[str] | None = None) -> Counter[str]:
    """Return what one block more launches."""
    counted = []
    for layers in (2, 3):
        spec = ModelSpec(layers=layers, residual=True, **BLOCKS[name])
        if launched is not None:
            launched.clear()
        made = launches(spec, ragged(8), outputs=("hidden",), layers=(layers - 1,))
        counted.append(made.kernels + (launched or Counter()))
    return counted[1] - counted[0]


FLASH = {"_flash_attention_forward": 1}
OWN = {
    "bert": {"linear": 4, "gelu": 1, "add_norm": 2},
    "llama": {"linear": 3, "addmm_": 1, "add_norm": 2, "turn": 1, "gated": 1},
    "modernbert": {"linear": 3, "addmm_": 1, "add_norm": 2, "turn": 1, "gated": 1},
    "gemma 2": {"linear": 4, "add_norm": 3, "turn": 1, "gated": 1},
    "qwen 3": {"linear": 3, "addmm_": 1, "add_norm": 2, "turn": 1, "gated": 1},
    "gpt-neox": {"linear": 3, "addmm_": 1, "gelu": 1, "add_norm": 3, "turn": 1},
    "clip": {"linear": 3, "addmm_": 1, "add_norm": 2, "gated": 1},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_launches_its_products_its_attention_and_little_else(
    name: str, launched: Counter[str]
) -> None:
    assert of_a_block(name, launched) == Counter(OWN[name] | FLASH)


@pytest.mark.parametrize(
    ("name", "most"), [("bert", 10), ("llama", 29), ("modernbert", 29), ("gemma 2", 32), ("qwen 3", 31)]
)
def test_torch_launches_more_where_there_are_no_kernels_over_rows(
    fetched: list[int],  # noqa: F811
    name: str,
    most: int,
) -> None:
    assert sum(of_a_block(name).values()) == most > sum(OWN[name].values()) + 1
