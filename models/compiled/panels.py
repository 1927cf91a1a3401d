"""What compiled products read: weights in panels, and rows that stand where the cache can hold them."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Panels", "apart", "place", "room"]

PAGE, BESIDE = 1024, 16  # numbers: 4 KiB, and a cache line
FEW_ROWS = 8


@dataclass(frozen=True, slots=True)
class Panels:
    """A linear layer laid out for the compiled product, `out` outputs of `inner` inputs.

    `weight` [panels, inner, columns] is Wᵀ in panels, `bias` [panels·columns] or None, both filled up with 0.
    `place` is what C is told of it.
    """

    weight: Tensor
    bias: Tensor | None
    out: int
    place: tuple[int, int, int, int]

    @property
    def inner(self) -> int:
        """How many inputs."""
        return int(self.weight.shape[1])

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, out: int) -> "Panels":
        """Return the panels and where they are."""
        return cls(weight, bias, out, (weight.data_ptr(), place(bias), weight.shape[1], out))


def room(like: Tensor, rows: int, width: int) -> Tensor:
    """Return room for rows that a product reads, [rows, width].

    A product reads fourteen rows side by side. A multiple of 4 KiB apart, all of them would have to stand in
    the same few lines of the core's nearest cache.
    """
    return like.new_empty(rows, width if width % PAGE else width + BESIDE)[:, :width]


def apart(x_ND: Tensor) -> Tensor:
    """Return rows that stand as `room` would have them."""
    if x_ND.shape[1] % PAGE or x_ND.shape[0] < FEW_ROWS:
        return x_ND
    return room(x_ND, *x_ND.shape).copy_(x_ND)


def place(tensor: Tensor | None) -> int:
    """Return where a tensor is, 0 where there is none."""
    return 0 if tensor is None else tensor.data_ptr()
