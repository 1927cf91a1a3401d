"""The first blocks of a batch as one call, where nothing is asked of them: no interpreter in between."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from models.attention.backends import COMPILED, Group
from models.compiled.native import Native
from models.compiled.panels import Projections
from models.compiled.through import Through, reads_in_place
from models.encoder.finish import STEP_ROWS, Finish

Layer = tuple[Sequence[Group], Projections | None, Finish | None]


def at_once(x_ND: Tensor, layers: Iterable[Layer], ours: Native | None) -> tuple[int, Tensor]:
    """Return how many of the layers were done, and the rows that enter the next one, x where there are none.

    It ends before a layer that is not two calls of compiled code, and before z that is not finite.
    """
    if ours is None or x_ND.shape[0] > 2 * STEP_ROWS:
        return 0, x_ND
    notes, made = None, [x_ND]
    for groups, projections, after in layers:
        group = groups[0]
        if len(groups) > 1 or group.backend is not COMPILED or not group.packed:
            break
        if projections is None or after is None or not reads_in_place(projections):
            break
        notes = notes or Through(ours)
        z = notes.block(made[-1], group.extents, projections, scale=group.scale, rule=group.scoring).z
        made.append(notes.y(z))
        notes.feed(after.network, made[-2] if after.residual else None, z, made[-1])
    done = 0 if notes is None else notes.run()
    return done, made[done]
