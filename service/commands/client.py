"""`heed models` and `heed attend`: the command line as a caller of a running server, over `heed-client`.

Beside the request line: it stands where every other caller stands. `heatmap` draws one attention matrix as
lines of coloured cells, since a terminal is where most first looks are taken.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from service.wire import npy, safetensors_format

if TYPE_CHECKING:
    from heed_client import Attended, Client

# Not HEED_…: those are the server's settings, and it refuses names it does not know.
Url = Annotated[str, typer.Option(envvar="HEEDCTL_URL", help="where the server is")]
Key = Annotated[str | None, typer.Option(envvar="HEEDCTL_API_KEY", help="the key, where it asks for one")]

WIDEST_STRIP = 64  # cells; longer rows are shown as the largest weight of each stretch
LONGEST_LABEL = 16
LEAST_NAMED = 0.005  # less is written 0.00
SHADES = " ░▒▓█"  # for terminals, and files, without colours
DARK = "rgb(24,26,38)"


def models(*, url: Url = "http://127.0.0.1:8000", api_key: Key = None) -> None:
    """List what a running server serves."""
    table = Table("model", "version", "layers", "heads", "d_model", "takes", "on", box=None, pad_edge=False)
    with client(url, api_key) as heed:
        for card in asked(heed.models):
            page = card.details
            device = f"{page.get('device', '')} {page.get('dtype', '')}"
            sizes = (str(card.layers), str(card.heads), str(card.d_model))
            table.add_row(escape(card.name), card.version, *sizes, ", ".join(card.inputs), device)
    Console().print(table)


def attend(
    model: Annotated[str, typer.Argument(help="a name that `heed models` lists")],
    sequence: Annotated[
        str, typer.Argument(help="a text in quotes, or a .npy file of embeddings or token ids")
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write to this .npy or .safetensors file instead")
    ] = None,
    outputs: Annotated[str, typer.Option(help="what to write, separated by commas")] = "z",
    layer: Annotated[int, typer.Option(help="which layer; negative counts from the end")] = -1,
    head: Annotated[int | None, typer.Option(help="which head; the mean of all unless given")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=64, help="how many tokens to name in each row")] = 4,
    url: Url = "http://127.0.0.1:8000",
    api_key: Key = None,
) -> None:
    """Show whom each token of a sequence attends to, or write the outputs to a file."""
    given: str | NDArray[Any] = _array(Path(sequence)) if sequence.endswith(".npy") else sequence
    if output is not None and output.suffix not in (".npy", ".safetensors"):
        refuse(f"{output.name} must end in .npy or .safetensors")
    heads = None if head is None else [head]
    names = ["weights_mean"] if output is None else [name.strip() for name in outputs.split(",")]

    def ask() -> "Attended":
        options: Any = {} if heads is None else {"heads": heads}
        (one,) = heed.attend(model, given, layers=layer, outputs=names, top_k=top_k, **options)
        return one

    with client(url, api_key) as heed:
        one = asked(ask)
    if output is not None:
        _write(output, one.tensors)
        return
    tokens = one.tokens or [str(place) for place in range(one["weights_mean"].shape[0])]
    console = Console()
    which = "mean of all heads" if head is None else f"head {head}"
    console.print(
        f"[bold]{escape(model)}[/], layer {layer}, {which}: each row is a token, and whom it attends to\n"
    )
    for line in heatmap(one["weights_mean"], tokens, top_k=top_k):
        console.print(line, no_wrap=True, overflow="ellipsis")


def heatmap(weights: NDArray[Any], tokens: Sequence[str], *, top_k: int) -> list[Text]:
    """Return one line a row of `weights` [T, S]: the token, S cells as bright as it attends, the k largest.

    Weights that two decimals would write as 0.00 are not named.
    `tokens` name the keys, and the queries where T = S. Rows of more than 64 keys are drawn in stretches.
    """
    labels = [_label(token) for token in tokens]
    rows, keys = weights.shape
    width = max((len(label) for label in labels), default=0)
    strips = _stretches(weights)
    cell = 2 if strips.shape[1] <= WIDEST_STRIP // 2 else 1
    brightest = float(strips.max(initial=0.0)) or 1.0
    lines = []
    for place in range(rows):
        line = Text(f"{labels[place] if rows == keys else place:>{width}} ")
        for weight in strips[place]:
            share = float(weight) / brightest
            line.append(SHADES[round(share * (len(SHADES) - 1))] * cell, style=f"{_colour(share)} on {DARK}")
        line.append("  ")
        for key in np.argsort(-weights[place], kind="stable")[:top_k]:
            weight = float(weights[place, key])
            if weight < LEAST_NAMED:
                break
            name = labels[key] if key < len(labels) else str(key)
            line.append(f"{name} ", style="bold" if weight >= 0.5 else "")
            line.append(f"{weight:.2f}  ", style=f"{_colour(0.3 + 0.7 * weight)}")
        lines.append(line)
    return lines


def _stretches(weights: NDArray[Any]) -> NDArray[Any]:
    """Return at most 64 columns, each the largest of a stretch of keys."""
    keys = weights.shape[1]
    if keys <= WIDEST_STRIP:
        return weights
    starts = np.linspace(0, keys, WIDEST_STRIP, endpoint=False).astype(int)
    reduced: NDArray[Any] = np.maximum.reduceat(weights, starts, axis=1)
    return reduced


def _colour(share: float) -> str:
    """Return a colour from the terminal's dark to bright amber for a share from 0 to 1."""
    dark, bright = (24, 26, 38), (255, 176, 46)
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(low + (high - low) * share) for low, high in zip(dark, bright, strict=True))
    return f"rgb({red},{green},{blue})"


def _label(token: str) -> str:
    printable = "".join(character if character.isprintable() else "·" for character in token)
    return printable if len(printable) <= LONGEST_LABEL else printable[: LONGEST_LABEL - 1] + "…"


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


def client(url: str, api_key: str | None) -> "Client":
    """Return a client of the server; without heed-client the command ends."""
    try:
        from heed_client import Client  # a package of its own, which a server can do without
    except ImportError:
        refuse("this command needs heed-client; install it with: pip install ./client")
    return Client(url, api_key=api_key)


def asked(ask: Any) -> Any:
    """Return what the server answers; a refusal ends the command with its words."""
    from heed_client import ConnectionFailed, HeedError

    try:
        return ask()
    except ConnectionFailed as error:
        refuse(f"{error}; start a server with `heed serve`, or name one with --url")
    except (HeedError, ValueError) as error:
        refuse(str(error))


def refuse(problem: str) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(f"heed: {problem}", err=True)
    raise typer.Exit(1)
