"""What can be asked for, by the server's own names, and how Python values become the wire's."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

__all__ = ["AttendOptions", "AttentionOptions", "Dtype", "plain"]

Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]


class Selection(TypedDict, total=False):
    """Which outputs of which heads and rows; common to both jobs.

    `outputs`: one name or several (default z and weights; GET /v1/models/{model} lists them). `heads`: which
    to return. `rows`: query positions, a list or a slice without step. `top_k`: how many keys a row.
    `dtype`: of the reply's numbers; bfloat16 arrives widened to float32. `deterministic`: bit-equal whatever
    else the server is doing. `priority`: higher goes first.
    """

    outputs: str | Sequence[str]
    heads: Sequence[int]
    rows: Sequence[int] | slice
    top_k: int
    dtype: Dtype
    deterministic: bool
    priority: int


class AttendOptions(Selection, total=False):
    """Options of `attend`.

    `layers`: a number, counted from the end when negative (default −1), drops the layer axis; a list or
    "all" puts it first. `truncate`: cut a text that is longer than the model takes, and say so, in place of
    refusing it (default: what the server is set to). `spans`: ranges of tokens, or of
    characters (`span_unit`), or "words": `weights` are summed over the queries and keys of each pair of them.
    """

    layers: int | Sequence[int] | Literal["all"]
    truncate: bool
    spans: Sequence[tuple[int, int]] | Literal["words"]
    span_unit: Literal["tokens", "characters"]


class AttentionOptions(Selection, total=False):
    """Options of `attention`: the mechanism, as CONTRACT and the ONNX operator name it.

    `scale` None is 1/√d_k for dot products and 1 for cosine. `causal`: query i may attend key
    j ≤ i + `causal_offset`. Windows count keys to either side of that diagonal.
    """

    scale: float | None
    similarity: Literal["dot", "cosine"]
    causal: bool
    causal_offset: int
    left_window: int | None
    right_window: int | None
    softcap: float | None
    exclude_self: bool


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON has them; None and what is not given are left out."""
    found = {name: value for name, value in options.items() if value is not None}
    for name in ("heads", "rows", "layers", "outputs"):
        value = found.get(name)
        if isinstance(value, slice):
            found[name] = _range(value)
        elif value is not None and not isinstance(value, str | int):
            found[name] = [item if isinstance(item, str) else int(item) for item in value]
    if isinstance(found.get("outputs"), str):
        found["outputs"] = [found["outputs"]]
    return found


def _range(rows: slice) -> dict[str, int | None]:
    if rows.step not in (None, 1):
        raise ValueError("rows as a slice may have no step; give a list of positions")
    return {"start": rows.start or 0, "stop": rows.stop}
