"""`heed tokenize`: the tokens of a text by a served model's own tokenizer, and how many they are.

Beside the request line, over `heed-client`.
"""

import sys
from typing import Annotated

import typer

from service.commands.client import Key, Url, asked, client

Text = Annotated[str, typer.Argument(help="The text; - reads standard input.")]
Plain = Annotated[bool, typer.Option("--plain", help="Leave out what the model puts around a text.")]
Count = Annotated[bool, typer.Option("--count", help="Print the number of tokens and nothing else.")]


def tokenize(
    model: Annotated[str, typer.Argument(help="Which of the server's models.")],
    text: Text,
    *,
    plain: Plain = False,
    count: Count = False,
    url: Url = "http://127.0.0.1:8000",
    api_key: Key = None,
) -> None:
    """Show a text's tokens, one a line: its id, its characters and the token; nothing is computed."""
    given = sys.stdin.read() if text == "-" else text
    with client(url, api_key) as heed:
        (found,) = asked(lambda: heed.tokenize(model, given, add_special_tokens=not plain))
    if count:
        typer.echo(len(found))
        return
    for one, token, (start, stop), special in zip(
        found.ids.tolist(), found.tokens, found.offsets, found.special, strict=True
    ):
        where = "added" if special else f"{start}-{stop}"
        typer.echo(f"{one:>7}  {where:>11}  {ascii(token)[1:-1] if not token.isprintable() else token}")
