"""A row of the table: what is promised and what was reached; kept, so that rows can be run apart."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import save

__all__ = ["Figure", "keep", "kept", "table"]

NAME = "resilience"
FILE = Path(__file__).parent.parent / "results" / f"{NAME}.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """What one row reached. `met` None: it was not run here, and `reached` says why."""

    row: str
    promised: str
    reached: str
    met: bool | None
    short: bool = False  # fewer than the promised counts

    @property
    def verdict(self) -> str:
        """Say it in a word or two."""
        if self.met is None:
            return "not run"
        return ("met" if self.met else "MISSED") + (", short form" if self.short else "")


def kept() -> dict[str, Figure]:
    """Return the rows of earlier runs."""
    if not FILE.exists():
        return {}
    return {row["row"]: Figure(**row) for row in json.loads(FILE.read_text())["result"]}


def keep(figure: Figure) -> None:
    """Put one row in place of the one there was."""
    rows = kept() | {figure.row: figure}
    save(NAME, [asdict(row) for row in rows.values()])


def table(figures: dict[str, Figure]) -> str:
    """Return all rows as Markdown."""
    lines = ["| figure | promised | reached | |", "|---|---|---|---|"]
    lines += [f"| {one.row} | {one.promised} | {one.reached} | {one.verdict} |" for one in figures.values()]
    return "\n".join(lines)
