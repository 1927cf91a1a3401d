"""`heed attend`: whom each token attends to, what comes next, and what either is after edits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from service.commands.client import Key, Url, asked, client, refuse
from service.commands.drawing import heatmap, predictions
from service.commands.typed import read_edit, read_heads, read_layer, read_places, read_spans
from service.wire import npy, safetensors_format

if TYPE_CHECKING:
    from heed_client import Attended, Client, Input

MASKS = ("[MASK]", "<mask>")  # under these an encoder predicts, not under the last token


Layer = Annotated[str, typer.Option(help="which layer; negative counts from the end; all")]
Heads = Annotated[
    str | None, typer.Option(help="pairs of layer and head, 5.1,5.5, or the name of a set of the model's")
]
RowsShown = Annotated[str | None, typer.Option(help="positions to show: -1 or 3,5 (default: all)")]
Pair = Annotated[str | None, typer.Option(help="a second text, after the model's separator")]
SpansShown = Annotated[
    str | None, typer.Option(help="words, or ranges of tokens as 0:3,3:5: attention between these")
]
Edits = Annotated[
    list[str] | None,
    typer.Option(
        help="what to change inside: 'scale 5.1 0', 'block 5.* queries=-1 keys=0:3', "
        "'add 3.7 -4.6 keys=outside:4:7', 'pattern 5.1 previous'; may be given several times"
    ),
]
Next = Annotated[int, typer.Option("--next", min=0, max=64, help="name so many of the likeliest next tokens")]


def attend(
    model: Annotated[str, typer.Argument(help="a name that `heed models` lists")],
    sequence: Annotated[
        str, typer.Argument(help="a text in quotes, or a .npy file of embeddings or token ids")
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write to this .npy or .safetensors file instead")
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(help="what to write, or print with --json, separated by commas")
    ] = None,
    layer: Layer = "-1",
    head: Annotated[int | None, typer.Option(help="which head; the mean of all unless given")] = None,
    heads: Heads = None,
    rows: RowsShown = None,
    pair: Pair = None,
    spans: SpansShown = None,
    edit: Edits = None,
    following: Next = 0,
    top_k: Annotated[int, typer.Option(min=1, max=64, help="how many tokens to name in each row")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="print numbers as JSON, and no picture")] = False,
    url: Url = "http://127.0.0.1:8000",
    api_key: Key = None,
) -> None:
    """Show whom each token of a sequence attends to, or write the outputs to a file.

    With --edit, all is computed with and without the edits; a file gets what is computed with them.
    """
    with client(url, api_key) as heed:
        if output is not None and output.suffix not in (".npy", ".safetensors"):
            refuse(f"{output.name} must end in .npy or .safetensors")
        picture = outputs is None and output is None and not as_json
        names = _names(outputs, single=head is not None, heads=heads, spans=spans, to_file=output is not None)
        options: dict[str, Any] = {"outputs": names, "top_k": top_k}
        inputs, chosen = asked(lambda: (_inputs(sequence, pair, edit or ()), _chosen(layer, head, heads)))
        options |= chosen
        options |= asked(lambda: _narrowed(rows, spans))
        runs = list(asked(lambda: heed.attend(model, inputs, **options)))
        after = (
            asked(lambda: _following(heed, model, inputs, runs[0], chosen, following)) if following else []
        )
        if output is not None:
            _write(output, {**runs[-1].tensors, **(after[-1].tensors if after else {})})
        elif not picture:
            _print(model, runs, after)
        else:
            _draw(heed, model, runs, after, options, top_k=top_k)


def _names(
    outputs: str | None, *, single: bool, heads: str | None, spans: str | None, to_file: bool
) -> list[str]:
    """Return the outputs to ask for: those that are named, else what the picture or the file needs."""
    if outputs is not None:
        return [name.strip() for name in outputs.split(",")]
    if to_file:
        return ["z"]
    return ["weights"] if single or heads or spans else ["weights_mean"]


def _inputs(sequence: str, pair: str | None, edits: Sequence[str]) -> list["Input"]:
    """Return the sequence, and where there are edits, the same again with them."""
    from heed_client import Input
    from heed_client.inputs import as_inputs

    given = _array(Path(sequence)) if sequence.endswith(".npy") else sequence
    one = as_inputs([given])[0] if pair is None else Input(text=sequence, pair=pair)
    read = [read_edit(text) for text in edits]
    return [one, replace(one, edits=read)] if read else [one]


def _chosen(layer: str, head: int | None, heads: str | None) -> dict[str, Any]:
    """Return which layers and heads are asked for."""
    if heads is not None and head is not None:
        raise ValueError("--head and --heads both say which heads; give one of them")
    found: dict[str, Any] = {"layers": read_layer(layer)}
    if heads is not None:
        found |= read_heads(heads)
    if head is not None:
        found["heads"] = [head]
    return found


def _narrowed(rows: str | None, spans: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if rows is not None:
        found["rows"] = read_places(rows)
    if spans is not None:
        found["spans"] = read_spans(spans)
    return found


def _following(
    heed: "Client", model: str, inputs: list["Input"], kept: "Attended", chosen: dict[str, Any], count: int
) -> list["Attended"]:
    """Return the likeliest next tokens under the last row, or under the masks of a text that has any."""
    masks = [place for place, token in enumerate(kept.tokens or ()) if token in MASKS]
    layers = chosen["layers"]
    options: dict[str, Any] = {"outputs": "next", "rows": masks or [-1], "layers": layers, "top_k": count}
    return list(heed.attend(model, inputs, **options))


def _draw(
    heed: "Client",
    model: str,
    runs: Sequence["Attended"],
    after: Sequence["Attended"],
    options: dict[str, Any],
    *,
    top_k: int,
) -> None:
    console = Console()
    one = runs[-1]
    labels = _labels(one)
    rows = None if "rows" not in options else _rows(options["rows"], labels)
    edited = ", with the edits" if len(runs) > 1 else ""
    what = f"each row is a {'span' if one.spans else 'token'}, and whom it attends to"
    for place, (title, weights) in enumerate(_matrices(heed, model, one, options)):
        gap = "\n" if place else ""
        console.print(f"{gap}[bold]{escape(model)}[/], {escape(title)}{edited}: {what}\n")
        for line in heatmap(weights, labels, top_k=top_k, rows=rows):
            console.print(line, no_wrap=True, overflow="ellipsis")
    if after:
        _draw_next(console, after)


def _labels(one: "Attended") -> list[str]:
    """Return what the keys are called: tokens, or the tokens of each span, or their places."""
    if one.tokens is None:
        return [str(place) for place in range(_weights(one).shape[-1])]
    if one.spans is None or isinstance(one.spans, Mapping) or _weights(one).shape[-1] != len(one.spans):
        return list(one.tokens)
    return ["".join(one.tokens[start:end]).replace("##", "") for start, end in one.spans]


def _rows(places: Any, labels: list[str]) -> list[str] | None:
    """Return what the chosen rows are called; None where a span's name chose them."""
    found: list[str] = []
    for place in places if isinstance(places, list) else [""]:
        if isinstance(place, str):
            return None
        found += labels[slice(*place)] if isinstance(place, tuple) else [labels[place]]
    return found


def _weights(one: "Attended") -> NDArray[Any]:
    return one["weights_mean" if "weights_mean" in one.tensors else "weights"]


def _matrices(
    heed: "Client", model: str, one: "Attended", options: dict[str, Any]
) -> list[tuple[str, NDArray[Any]]]:
    """Return the matrices to draw, each with what it is of."""
    weights, heads, layers = _weights(one), options.get("heads"), options["layers"]
    mean = "mean of all heads"
    if "weights" in one.tensors and not isinstance(heads, list):  # of a named set, or of all: their mean
        weights = weights.mean(axis=-3)
        mean = f"mean of {heads}" if isinstance(heads, str) else mean
    elif "weights" in one.tensors and heads and isinstance(heads[0], tuple):
        return [
            (f"layer {layer}, head {head}", each) for (layer, head), each in zip(heads, weights, strict=True)
        ]
    elif "weights" in one.tensors:
        weights, mean = weights[..., 0, :, :], f"head {heads[0]}"  # type: ignore[index]
    if isinstance(heads, str):
        return [(mean, weights)]
    if not isinstance(layers, int):
        places = range(len(weights)) if layers == "all" else layers
        return [(f"layer {layer}, {mean}", each) for layer, each in zip(places, weights, strict=True)]
    count = asked(lambda: heed.model(model)).layers if layers < 0 else 0
    return [(f"layer {layers + count}, {mean}", weights)]


def _draw_next(console: Console, after: Sequence["Attended"]) -> None:
    """Draw the likeliest next tokens, row by row; of several layers, the last."""
    titles = ["next", "with the edits"]
    for row in range(after[0].next_ids.shape[-2]):
        found = []
        for title, one in zip(titles, after, strict=False):
            ids, logprobs, tokens = one.next_ids, one.next_logprobs, one.next_tokens
            if ids.ndim == 3:
                ids, logprobs, tokens = ids[-1], logprobs[-1], None if tokens is None else tokens[-1]
            names = [str(token) for token in (ids[row] if tokens is None else tokens[row])]
            found.append((title, names, logprobs[row]))
        console.print()
        console.print(predictions(found))


def _print(model: str, runs: Sequence["Attended"], after: Sequence["Attended"]) -> None:
    """Print what was computed as one JSON object, as the server's own replies are; with edits, both runs."""
    said = []
    for place, one in enumerate(runs):
        tensors = {**one.tensors, **(after[place].tensors if after else {})}
        page: dict[str, Any] = {name: _plain(array) for name, array in tensors.items()}
        if one.tokens is not None:
            page["tokens"] = list(one.tokens)
        if after and after[place].next_tokens is not None:
            page["next_tokens"] = after[place].next_tokens
        if place:
            page["edited"] = True
        said.append(page)
    typer.echo(json.dumps({"model": model, "outputs": said}, ensure_ascii=False))


def _plain(array: NDArray[Any]) -> Any:
    """Return nested lists; what JSON has no number for is null."""
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        return np.where(np.isfinite(array), array, None).tolist()  # type: ignore[call-overload]
    return array.tolist()


def _array(file: Path) -> NDArray[Any]:
    """Return the array of a .npy file, float64 as float32; pickles are not read."""
    try:
        array: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        refuse(f"{file} is no .npy file of numbers: {error}")
    if array.ndim not in (1, 2):
        refuse(f"{file} is {list(array.shape)}; give one sequence: token ids [T] or embeddings [T, d_model]")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _write(file: Path, tensors: Any) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    if file.suffix == ".npy" and len(arrays) != 1:
        refuse(f"a .npy file holds one output, not {', '.join(arrays)}; write to a .safetensors file")
    pieces = npy.encode(*arrays.values()) if file.suffix == ".npy" else safetensors_format.encode(arrays)
    try:
        with file.open("wb") as out:
            out.writelines(pieces)
    except OSError as error:
        refuse(f"cannot write {file}: {error.strerror}")
    for name, array in arrays.items():
        typer.echo(f"{name} {list(array.shape)} {array.dtype} in {file}")
