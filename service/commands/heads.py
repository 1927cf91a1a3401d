"""The commands `heed heads import` and `heed heads list`: head sets of a model folder.

Not on the request line: what they write, `heed serve` reads when it loads the folder.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.errors import ModelError
from service.commands.client import refuse

SHOWN_PAIRS = 8  # of a set in the list

heads = typer.Typer(
    name="heads",
    help="Head sets of a model folder, which `heads` of a request may name.",
    no_args_is_help=True,
)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="QRHead's yaml; json of scores, alignment_heads, important_heads or PASTA's, or a "
        "head_sets.json; AT2's torch file; or the folder of a protein model with a contact head.",
    ),
]
Model = Annotated[Path, typer.Option("--model", help="The model folder that it is put into.")]
Name = Annotated[str | None, typer.Option(help="What requests call it.")]
Part = Annotated[
    Literal["decoder", "cross"] | None,
    typer.Option(help="Whose heads they are, in an encoder-decoder model."),
]
Top = Annotated[int | None, typer.Option(min=1, help="Of a file of scores, so many of the highest.")]
Weighted = Annotated[bool, typer.Option("--weighted", help="Keep the scores as weights in `mixed`.")]
Words = Annotated[str | None, typer.Option("--source", help="Who found it, as the model's page says it.")]
Force = Annotated[bool, typer.Option("--force", help="Take the place of a set of the same name.")]


@heads.command("import")
def import_set(
    file: Source,
    *,
    model: Model,
    name: Name = None,
    part: Part = None,
    top: Top = None,
    weighted: Weighted = False,
    source: Words = None,
    force: Force = False,
) -> None:
    """Read a head set out of somebody's file into a model folder's head_sets.json, checked."""
    from models.folders.head_importing import HowToImport, import_heads  # torch takes seconds to import

    how = HowToImport(name=name, part=part, top=top, weighted=weighted, source=source, force=force)
    try:
        names = import_heads(file, model, how)
    except (ModelError, OSError) as problem:
        refuse(str(problem))
    Console().print(escape(f"{', '.join(names)} in {model}"), soft_wrap=True)
    list_sets(model)


@heads.command("list")
def list_sets(model: Annotated[Path, typer.Argument(help="A model folder.")]) -> None:
    """List the head sets of a model folder."""
    from models.folders.families import read_folder
    from models.folders.head_tables import sizes_of
    from models.heads.reading import read_head_sets

    try:
        found = read_head_sets(model, sizes_of(read_folder(model)))
    except ModelError as problem:
        refuse(str(problem))
    if not any(found.values()):
        typer.echo(
            f"{model.name} has no head sets; `heed heads import FILE --model {model}` reads others' files"
        )
        return
    table = Table("set", "of", "pairs", "layers run", "heads", "source", box=None, pad_edge=False)
    for part, sets in found.items():
        for name, one in sets.items():
            first = " ".join(f"{layer}.{head}" for layer, head in one.pairs[:SHOWN_PAIRS])
            more = " …" if len(one.pairs) > SHOWN_PAIRS else ""
            sizes = (str(len(one.pairs)), str(one.layers))
            table.add_row(escape(name), part, *sizes, first + more, escape(one.source))
    Console().print(table)
