"""Where sequences stand for kernels in tiles: laid out once a batch, and never another's masks and biases."""

from typing import Any

import pytest
import torch

from models.attention.ragged.batch import BatchLayouts
from models.attention.tiles import backend as tiles
from models.attention.tiles.table import SequenceTable, table_of
from models.compiled.extents import Extent
from models.compiled.rules import DistanceTable
from models.outputs import Selection

CPU = torch.device("cpu")
OPEN = torch.ones(1, 1, 4, dtype=torch.bool)


def table(layouts: BatchLayouts, *, chosen: bool = False, start: int = 0, **more: Any) -> SequenceTable:
    extents = [Extent(slice(0, 3)), Extent(slice(3 + start, 7 + start), **more)]
    return table_of(extents, heads=2, total=9, device=CPU, chosen=chosen, once=layouts.once)


def test_the_same_places_are_one_table_whatever_is_asked() -> None:
    layouts = BatchLayouts()
    first = table(layouts)
    assert table(layouts, outputs=("entropy",), selection=Selection(outputs=(), rows=(1,))) is first
    assert first.rows[:, :4].tolist() == [[0, 3, 0, 3], [3, 4, 3, 4]]
    assert first.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 0]
    assert table(BatchLayouts()) is not first


def test_other_places_are_another_table() -> None:
    layouts = BatchLayouts()
    assert table(layouts) is not table(layouts, start=1)
    assert table(layouts, keys=slice(0, 4)) is not table(layouts, keys=slice(1, 5))
    assert table(layouts) is not table(layouts, keys=slice(1, 5))


def test_chosen_rows_are_a_table_of_their_own() -> None:
    layouts = BatchLayouts()
    rows = [Extent(slice(0, 3), selection=Selection(outputs=(), rows=own)) for own in ((2, 0), (1,))]

    def of(one: Extent) -> SequenceTable:
        return table_of([one], heads=2, total=3, device=CPU, chosen=True, once=layouts.once)

    assert of(rows[0]) is of(rows[0])
    assert (of(rows[0]).positions.tolist(), of(rows[1]).positions.tolist()) == ([2, 0], [1])
    chosen = of(rows[0]).chosen
    assert chosen is not None
    assert (chosen.dtype, chosen.tolist()) == (torch.int64, [2, 0])


@pytest.mark.parametrize("name", ["mask", "bias"])
def test_masks_and_biases_are_known_by_the_memory_they_are_in(name: str) -> None:
    layouts = BatchLayouts()
    own, other = (OPEN.clone() if name == "mask" else OPEN.float().clone() for _ in range(2))
    first = table(layouts, **{name: own})
    assert table(layouts, **{name: own[:]}) is first
    for changed in (other, None):
        assert table(layouts, **{name: changed}) is not first
    assert own.data_ptr() in first.rows[1].tolist()
    assert other.data_ptr() in table(layouts, **{name: other}).rows[1].tolist()
    assert any(one is own for one in first.kept)  # so nobody else comes to its memory


def test_biases_of_distances_are_known_by_what_they_are() -> None:
    layouts = BatchLayouts()
    own, other = (DistanceTable(torch.zeros(2, 20), 9) for _ in range(2))
    assert table(layouts, bias=own) is table(layouts, bias=own)
    assert table(layouts, bias=own) is not table(layouts, bias=other)


@pytest.mark.parametrize(
    ("mask", "bias", "own"),
    [
        (None, None, True),
        (OPEN, None, True),
        (OPEN.float(), None, True),
        (OPEN, OPEN.float(), True),
        (OPEN.float(), OPEN.float(), False),  # added up for each layer
        (None, OPEN.half(), False),  # widened for each layer
        (None, DistanceTable(torch.zeros(2, 20), 9), True),
    ],
)
def test_what_is_made_for_a_layer_is_told_from_what_a_sequence_has(mask: Any, bias: Any, own: bool) -> None:
    assert tiles.lasts(mask, bias) == own


def test_where_sequences_stand_is_aligned_whatever_is_chosen() -> None:
    """Triton compiles a kernel for aligned memory, and again where it is not."""
    for count in range(1, 6):
        rows = tuple(range(count))
        one = Extent(slice(0, 9), selection=Selection(outputs=(), rows=rows))
        made = table_of([one] * 3, heads=2, total=9, device=CPU, chosen=True)
        assert made.chosen is not None
        starts = [part.data_ptr() - made.rows.data_ptr() for part in (made.positions, made.chosen)]
        assert [start % 16 for start in starts] == [0, 0]
        assert (made.positions.tolist(), made.chosen.tolist()) == ([*rows] * 3, [*rows] * 3)
