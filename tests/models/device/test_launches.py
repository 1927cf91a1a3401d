"""How much a batch costs a GPU's host: kernels launched, counted on tensors that have shapes and no numbers.

A launch takes a few microseconds whatever it does: a batch of short sequences takes as long as they do.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.attention.ragged import choice
from models.attention.ragged.kernels import by_flash
from models.attention.tiles import backend as tiles
from models.attention.tiles import launch
from models.device import gathering, packed
from models.encoder.stack import Stack
from models.folders.parameters import parameter_shapes
from models.halves import BFLOAT16
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import ALIASES, OUTPUTS, Selection, Share
from models.pooling_spec import PoolingSpec, PoolingStep
from models.protocol import Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import card_of

META = torch.device("meta")
EMPTY = {"empty", "empty_like", "empty_strided", "new_empty"}  # memory that is taken and not written
COPIES = {"_to_copy", "copy_", "to"}


class Launches(TorchDispatchMode):
    """Counts operators on the device by name, and copies to and from it apart."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.copies = 0
        self.bytes_in = 0  # of floating-point numbers

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name, given, made = function._schema.name.split("::")[1], tensors((args, kwargs)), tensors(result)
        if name in EMPTY or not any(one.device == META for one in (*given, *made)):
            return result
        if not function._schema.is_mutable and {*map(memory, made)} <= {*map(memory, given)}:
            return result  # a view
        if name in COPIES and any(one.device != META for one in (*given, *made)):
            self.copies += 1
            there = (one for one in given if one.device != META and one.is_floating_point())
            self.bytes_in += sum(one.nbytes for one in there)
            if len({one.dtype for one in (*given, *made)}) == 1:
                return result  # else it is converted there, by a kernel
        self.kernels[name] += 1
        return result


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Meta tensors pass for a GPU's; the bytes of each copy to the processor."""
    sizes: list[int] = []

    def begin_copy(device_bytes: torch.Tensor) -> Any:
        sizes.append(device_bytes.numel())
        return np.zeros(device_bytes.numel(), np.uint8)

    monkeypatch.setattr(choice, "ragged_kernel", lambda *_: by_flash)
    for module in (gathering, packed):
        monkeypatch.setattr(module, "begin_copy", begin_copy)
    return sizes


@pytest.fixture
def in_tiles(fetched: list[int], monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Kernels in tiles are there as well; how often each was launched, by name."""
    launched: Counter[str] = Counter()

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert all(grid), grid
            return lambda *_, **__: launched.update([self.name])

    monkeypatch.setattr(launch, "kernel", Kernel)
    monkeypatch.setattr(tiles, "takes", lambda *_: True)
    return launched


def launches(
    spec: ModelSpec,
    lengths: Sequence[int],
    kind: np.dtype[Any] | type[np.generic] = np.float32,
    kept_in: torch.dtype = torch.bfloat16,
    **chosen: Any,
) -> Launches:
    parameters = {
        name: torch.empty(shape, dtype=kept_in, device=META) for name, shape in parameter_shapes(spec).items()
    }
    stack = Stack(spec, parameters, META)
    card = card_of(spec)
    batch = [
        Item(
            card=card,
            input=Tokens(embeddings=np.zeros((length, spec.d_model), kind)),
            selection=Selection(**chosen),
        )
        for length in lengths
    ]
    with torch.inference_mode(), Launches() as counted:
        stack.run(batch)
    return counted


LAYER = ModelSpec(d_model=768, heads=12)
MINILM = ModelSpec(
    d_model=384,
    heads=12,
    layers=6,
    residual=True,
    norm=NormSpec(kind="layer"),
    feed_forward=FeedForwardSpec(d_ff=1536),
    positions=PositionSpec(kind="learned", max_positions=512),
    pooling=PoolingSpec(steps=(PoolingStep(kind="normalize"),)),
)


def ragged(count: int) -> list[int]:
    return [8 + place * 37 % 121 for place in range(count)]


def test_z_of_a_layer_of_many_sequences_takes_few_launches_and_comes_over_in_one_copy(
    fetched: list[int],
) -> None:
    counted = launches(LAYER, ragged(128), outputs=("z",))
    assert sum(counted.kernels.values()) <= 12, counted.kernels
    assert counted.kernels["_flash_attention_forward"] == 1
    assert len(fetched) == 1
    assert counted.copies == 2  # rows, and where each sequence begins


@pytest.mark.parametrize("chosen", [{"outputs": ("z",)}, {"outputs": ("z",), "rows": (0, 3)}])
def test_more_sequences_take_no_more_launches(fetched: list[int], chosen: dict[str, Any]) -> None:
    few, many = (launches(LAYER, ragged(count), **chosen) for count in (2, 128))
    assert few.kernels == many.kernels
    assert few.copies == many.copies


def test_sentence_embeddings_take_no_more_launches_for_more_sentences(fetched: list[int]) -> None:
    few, many = (launches(MINILM, [17] * count, outputs=("pooled",), layers=(5,)) for count in (2, 128))
    assert few.kernels == many.kernels, many.kernels - few.kernels
    assert sum(many.kernels.values()) <= 16 * MINILM.layers
    assert many.copies == few.copies == 4  # rows, positions, where each sequence begins, and lengths


def test_hidden_states_of_all_layers_take_no_more_launches_for_more_sequences(fetched: list[int]) -> None:
    chosen = {"outputs": ("z", "hidden"), "layers": tuple(range(6)), "layer_axis": True}
    few, many = (launches(MINILM, ragged(count), **chosen) for count in (2, 128))
    assert few.kernels == many.kernels
    assert few.copies == many.copies
    assert sum(many.kernels.values()) <= 26 * MINILM.layers


CAPPED = replace(MINILM, attention=AttentionSpec(softcap=30.0))  # kernels in tiles make its z


def test_where_sequences_stand_is_brought_to_the_device_once_for_all_layers(in_tiles: Counter[str]) -> None:
    one, six = (launches(CAPPED, ragged(12), outputs=("z",), layers=(last,)) for last in (0, 5))
    assert in_tiles["forward"] == 1 + 6
    assert six.copies == one.copies


def test_it_is_brought_once_too_where_something_is_asked_of_every_layer(in_tiles: Counter[str]) -> None:
    chosen = {"outputs": ("entropy",), "layer_axis": True}
    one, six = (launches(CAPPED, ragged(12), **chosen, layers=tuple(range(last))) for last in (1, 6))
    assert in_tiles["forward"] == 1 + 6
    assert six.copies == one.copies + 5  # where what is made of each layer goes


OF_SCORES = [
    ALIASES["top_k"],
    *((name,) for name in ("entropy", "lse", "weights", "received", "weights_mean", "share")),
]
SHARE = Share(of=((0, 1),), over=((0, 4),))
CHOSEN: list[dict[str, Any]] = [
    {},
    {"dtype": "float16"},
    {"rows": (0, 3), "heads": (1, 2)},
    {"layers": (4, 2), "layer_axis": True},
    {"layers": (5,), "pairs": ((5, 1), (5, 3))},
]
ASKED = [  # all at once but what is joined over layers
    pytest.param(names, chosen, id=f"{names[0]}, {' '.join(chosen) or 'all'}")
    for names in OF_SCORES
    for chosen in CHOSEN
    if "pairs" not in chosen or not OUTPUTS[names[0]].joined
]


@pytest.mark.parametrize(("outputs", "chosen"), ASKED)
@pytest.mark.parametrize("spec", [MINILM, CAPPED], ids=["flash", "tiles"])
def test_what_is_made_of_scores_takes_no_more_launches_for_more_sequences(
    in_tiles: Counter[str], spec: ModelSpec, outputs: tuple[str, ...], chosen: dict[str, Any]
) -> None:
    made = []
    for count in (2, 2, 128):  # from the first on, numbers of heads are on the device
        in_tiles.clear()
        counted = launches(spec, ragged(count), outputs=("z", *outputs), share=SHARE, **chosen)
        made.append((counted.kernels, counted.copies, Counter(in_tiles)))
    assert made[1] == made[2]
    assert made[1][2]


def test_z_and_the_largest_weights_of_many_sequences_take_few_launches(in_tiles: Counter[str]) -> None:
    launches(LAYER, ragged(2), outputs=("z", *ALIASES["top_k"]))  # numbers of heads are there from then on
    in_tiles.clear()
    counted = launches(LAYER, ragged(128), outputs=("z", *ALIASES["top_k"]))
    assert in_tiles == {"forward": 1}
    assert sum(counted.kernels.values()) + in_tiles.total() <= 10, counted.kernels
    assert counted.copies <= 4  # rows, where each begins, twice, and where what is made of each goes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [np.dtype(np.float16), BFLOAT16])
def test_numbers_of_16_bits_cross_to_a_device_in_16_bits(
    fetched: list[int], kind: np.dtype[Any], dtype: torch.dtype
) -> None:
    wide = launches(LAYER, ragged(128), kept_in=dtype, outputs=("z",))
    narrow = launches(LAYER, ragged(128), kind, dtype, outputs=("z",))
    assert wide.bytes_in == 4 * sum(ragged(128)) * LAYER.d_model
    assert narrow.bytes_in == wide.bytes_in / 2
    assert narrow.copies == wide.copies
    same = {"float16": torch.float16, "void16": torch.bfloat16}[kind.name] == dtype
    assert (narrow.kernels - wide.kernels).total() == (dtype == torch.float32)  # it is converted there
    assert (wide.kernels - narrow.kernels).total() == (same and dtype != torch.float32)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("received", {"sum_rows": 1}), ("weights", {"write_weights": 1}), ("entropy", {"forward": 1})],
)
def test_weights_are_made_of_the_logsumexps_that_another_kernel_has_made(
    in_tiles: Counter[str], name: str, kernels: dict[str, int]
) -> None:
    launches(LAYER, ragged(12), outputs=("z", name))
    assert in_tiles == kernels
