"""The command `heed import`: a model folder into the repository, and a few lines on what it is.

Not on the request line: what it writes, `heed serve` then serves.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from models.errors import ModelError
from service.commands.client import refuse

if TYPE_CHECKING:
    from models.folders.importing import Imported

Source = Annotated[Path, typer.Argument(help="A Hugging Face or Heed model folder on this machine.")]
Repository = Annotated[
    Path, typer.Option("--repository", envvar="HEED_MODEL_REPOSITORY", help="Folder of model folders.")
]
Name = Annotated[str | None, typer.Option(help="What to serve it as; the folder's own name unless given.")]
Version = Annotated[str | None, typer.Option(help="The number of a version folder to put it into.")]


def import_folder(
    source: Source, *, repository: Repository = Path("repository"), name: Name = None, version: Version = None
) -> None:
    """Copy a model folder into the repository, checked; only safetensors, nothing is ever converted."""
    from models.folders.importing import import_model  # torch takes seconds to import

    try:
        done = import_model(source, repository, name=name, version=version)
    except ModelError as problem:
        refuse(str(problem))
    console = Console()
    for title, words in _told(done):
        console.print(f"[bold]{title:>10}[/]  {escape(words)}", soft_wrap=True)


def _told(done: "Imported") -> list[tuple[str, str]]:
    """Return what there is to say of an imported model, line by line."""
    found: Any = done.found
    spec = getattr(found, "spec", None)
    lines = [("model", f"{done.name}, version {done.version}, in {done.folder}"), ("family", found.family)]
    if spec is None:
        lines.append(("runs by", f"transformers, because {found.reason}"))
    else:
        lines.append(("sizes", f"{spec.layers} layers, {spec.heads} heads, d_model {spec.d_model}"))
    stored = f"{done.weight_bytes:,} bytes" + (f" of {found.dtype}" if found.dtype else "")
    lines.append(("weights", stored))
    lines += [("sha256", f"{sha} {at}") for at, sha in done.sha256.items() if at.endswith(".safetensors")]
    lines.append(("text", "yes" if found.tokenizer else f"no: {found.no_text}; token ids or embeddings only"))
    pooling = found.sentence.pooling if spec is None else spec.pooling
    lines.append(("pooled", pooling.told() if pooling else f"no: {found.sentence.reason}"))
    lines += [("head sets", ", ".join(done.head_sets))] if done.head_sets else []
    lines += [("note", note) for note in found.notes]
    if done.left_out:
        lines.append(("left out", ", ".join(done.left_out)))
    load = f"by the next `heed serve`; by one with --admin: POST /v2/repository/models/{done.name}/load"
    lines.append(("served", load))
    return lines
