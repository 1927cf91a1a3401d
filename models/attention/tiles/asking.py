"""What sequences ask of kernels in tiles, and which of them ask for the same: they are one launch."""

from collections.abc import Callable, Hashable, Iterable, Sequence

from models.attention.reductions import OF_WEIGHTS, TOP_K
from models.compiled.extents import Extent
from models.compiled.structures import MOST_TOP_K
from models.device.gathering import OutputHome

LISTS = frozenset(TOP_K)


def home_of(one: Extent) -> OutputHome | None:
    """Return where a sequence's outputs go, None where each is put by itself."""
    return one.home if isinstance(one.home, OutputHome) else None


def _gathered(one: Extent, names: Iterable[str]) -> Hashable:
    """Return what parts launches that write where answers are gathered: memory of one dtype."""
    home = home_of(one)
    own = () if home is None else tuple(sorted(home.layers.keys() & {*names}))
    return (own, home.dtype, id(home.gathering)) if own and home is not None else None


def chooses(one: Extent) -> bool:
    """Whether some heads or rows are chosen."""
    return one.selection.heads is not None or one.selection.rows is not None


def listed(one: Extent) -> tuple[str, ...]:
    """Return what of an extent's outputs a pass over the keys makes on its way."""
    few = one.selection.top_k <= MOST_TOP_K
    return tuple(name for name in one.outputs if name == "entropy" or (few and name in LISTS))


def of_the_pass(one: Extent) -> Hashable:
    """Return what parts launches of the pass that makes z."""
    names = () if chooses(one) else listed(one)
    return names, one.selection.top_k if names else 0, _gathered(one, names)


def of_the_pass_without_z(one: Extent) -> Hashable | None:
    """Return the same where nobody reads z; None: what is asked of chosen heads and rows needs no other."""
    return None if chooses(one) or not one.reads_scores else of_the_pass(one)


def of_lists(one: Extent) -> Hashable | None:
    """Return the same where logsumexps are there already; None: nothing else is made on the way."""
    return None if chooses(one) or not listed(one) else of_the_pass(one)


def names_made(one: Extent) -> frozenset[str]:
    """Return which of an extent's outputs are made here; sums between spans are the reference's."""
    names = OF_WEIGHTS.intersection(one.outputs)
    return names if one.selection.spans is None else names - {"weights"}


def beside(one: Extent) -> Hashable | None:
    """Return what parts launches of what is made beside it; None: nothing is."""
    selection, names = one.selection, names_made(one)
    if not chooses(one):
        names -= {"entropy", *LISTS}
    if not names and not one.weights:
        return None
    own = names, one.weights, selection.heads, selection.rows is None
    return *own, selection.top_k, selection.dtype, _gathered(one, names)


def puts_lse(one: Extent) -> Hashable | None:
    """Return what parts launches that put logsumexps where they are gathered; None: they are not."""
    there = _gathered(one, ("lse",)) if "lse" in one.selection.outputs else None
    return None if there is None else (there, one.selection.heads, one.selection.rows is None)


def made_beside(extents: Sequence[Extent]) -> bool:
    """Whether anything of what is asked beside z is made here."""
    return any(one.weights or names_made(one) or puts_lse(one) for one in extents)


def alike(extents: Sequence[Extent], key: Callable[[Extent], Hashable | None]) -> list[list[int]]:
    """Return places of sequences that ask for the same, in the order of the first of each."""
    found: dict[Hashable, list[int]] = {}
    for place, one in enumerate(extents):
        if (own := key(one)) is not None:
            found.setdefault(own, []).append(place)
    return list(found.values())
