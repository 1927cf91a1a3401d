"""A row of the table: what is promised and what was reached; kept, so that rows can be run apart."""

import datetime
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.report import save

NAME = "resilience"
FILE = Path(__file__).parent.parent / "results" / f"{NAME}.json"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")


@dataclass(frozen=True, slots=True)
class Figure:
    """What one row reached. `met` None: it was not run here, and `reached` says why.

    `ended` and `load_average` are of this row: rows are run on different days, some beside other work.
    """

    row: str
    promised: str
    reached: str
    met: bool | None
    short: bool = False  # fewer than the promised counts
    ended: str = field(default_factory=_now)
    load_average: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))

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
    """Put one row in place of the one there was; a short form never takes the place of a long one."""
    before = kept()
    old = before.get(figure.row)
    if figure.short and old is not None and not old.short and old.met is not None:
        return
    save(NAME, [asdict(row) for row in (before | {figure.row: figure}).values()])


def table(figures: dict[str, Figure]) -> str:
    """Return all rows as Markdown."""
    lines = ["| figure | promised | reached | | when |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.row} | {one.promised} | {one.reached} | {one.verdict} | {one.ended[:10]} |"
        for one in figures.values()
    ]
    return "\n".join(lines)
