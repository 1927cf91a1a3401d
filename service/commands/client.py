"""`heed models`, and what every command has that asks a running server, over `heed-client`.

Beside the request line: it stands where every other caller stands.
"""

from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from heed_client import Client

# Not HEED_…: those are the server's settings, and it refuses names it does not know.
Url = Annotated[str, typer.Option(envvar="HEEDCTL_URL", help="where the server is; several, with commas")]
Key = Annotated[str | None, typer.Option(envvar="HEEDCTL_API_KEY", help="the key, where it asks for one")]


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


def client(url: str, api_key: str | None) -> "Client":
    """Return a client of the server; without heed-client the command ends."""
    try:
        from heed_client import Client  # a package of its own, which a server can do without
    except ImportError:
        refuse("this command needs heed-client; install it with: pip install ./client")
    try:
        return Client(url, api_key=api_key)
    except ValueError as error:
        refuse(str(error))


def asked(ask: Any) -> Any:
    """Return what the server answers; a refusal ends the command with its words."""
    from heed_client import ConnectionFailed, HeedError, NotAuthorized

    try:
        return ask()
    except ConnectionFailed as error:
        refuse(f"{error}; start a server with `heed serve`, or name one with --url")
    except NotAuthorized as error:
        refuse(f"{error}; here with --api-key, or HEEDCTL_API_KEY in the environment")
    except (HeedError, ValueError) as error:
        refuse(str(error))


def refuse(problem: str) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(f"heed: {problem}", err=True)
    raise typer.Exit(1)
