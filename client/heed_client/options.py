"""What can be asked for, by the server's own names, and how Python values become the wire's."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from heed_client.edits import Places, places_as_json
from heed_client.heads import Heads, heads_as_json

__all__ = ["AttendOptions", "AttentionOptions", "Dtype", "Spans", "plain", "spans_as_json"]

Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
Spans: TypeAlias = Sequence[tuple[int, int]] | Mapping[str, tuple[int, int]]


class Selection(TypedDict, total=False):
    """Which outputs of which heads and rows; common to both jobs.

    `outputs`: one name or several (default z and weights; GET /v1/models/{model} lists them). `heads`: which
    to return: numbers, (layer, head) pairs, a HeadSet, or the name of one of the model's sets (the last three
    of `attend`). `rows`: query positions, a list, a slice without step, or the name of a span. `top_k`: how
    many keys a row. `dtype`: of the reply's numbers; bfloat16 arrives widened to float32. `deterministic`:
    bit-equal whatever else the server is doing. `priority`: higher goes first.
    """

    outputs: str | Sequence[str]
    heads: Heads
    rows: Places
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
    A mapping names spans, so that `rows`, `columns`, `share` and edits can speak of them. `columns`: spans
    whose keys `mixed` sums; `reduce`: what it does with rows. `share`: {"of": span, "over": [span, …]}, what
    the output `share` is. `targets`: tokens, by id or by text, whose log-probabilities `logprobs` are.
    """

    layers: int | Sequence[int] | Literal["all"]
    truncate: bool
    spans: Spans | Literal["words"]
    span_unit: Literal["tokens", "characters"]
    columns: Places
    reduce: Literal["mean", "sum"]
    share: Mapping[str, Places]
    targets: Sequence[int | str]


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
    for name in ("layers", "outputs", "targets"):
        value = found.get(name)
        if value is not None and not isinstance(value, str | int):
            found[name] = [item if isinstance(item, str) else int(item) for item in value]
    for name in ("rows", "columns", "share"):
        if name in found:
            found[name] = places_as_json(found[name])
    if "heads" in found:
        found["heads"] = heads_as_json(found["heads"])
    if "spans" in found:
        found["spans"] = spans_as_json(found["spans"])
    if isinstance(found.get("outputs"), str):
        found["outputs"] = [found["outputs"]]
    return found


def spans_as_json(spans: Spans | str) -> Any:
    """Return spans as the server reads them: "words", ranges, or ranges by name."""
    if isinstance(spans, str):
        return spans
    if isinstance(spans, Mapping):
        return {name: [int(start), int(end)] for name, (start, end) in spans.items()}
    return [[int(start), int(end)] for start, end in spans]
