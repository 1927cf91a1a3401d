"""Tables of the documents, made of `benchmarks/results/`: `python -m benchmarks.tables [--write] [NAME ...]`.

A page has places for them, `<!-- table NAME -->` to `<!-- end -->`. Without `--write` they are printed; with
it every place is filled whose result is there, and the others are left as they are.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.precision import ERROR_HEAD, ORDER_HEAD, order_row, row
from benchmarks.report import RESULTS

DOCS = Path(__file__).parents[1] / "docs"
PLACE = re.compile(r"<!-- table (?P<name>[a-z-]+) -->\n.*?<!-- end -->", re.DOTALL)
Result = Any  # what a benchmark kept: JSON


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def kept(met: bool) -> str:  # noqa: FBT001  what a row says
    """Say whether a promise is."""
    return "yes" if met else "**no**"


def encoders(result: Result) -> str:
    """Return each encoder on both sets of texts."""
    sets = result["sets"]
    by = [{(one["who"], one["dtype"]): one for one in texts["contestants"]} for texts in sets]
    names = {"heed": "**Heed**, over HTTP", "openvino": "OpenVINO", "ctranslate2": "CTranslate2"}
    rows = []
    for who, dtype in dict.fromkeys(key for texts in by for key in texts):
        cells = [f"{names.get(who, who)}, {dtype}"]
        for texts in by:
            one = texts.get((who, dtype))
            cells += [f"{one['rate']:,.0f}", f"{one['error']:.1e}", one["how"]] if one else ["", "", ""]
        size = next((one["weights_bytes"] for texts in by if (one := texts.get((who, dtype)))), None)
        rows.append([*cells, f"{size / 2**20:.0f} MiB" if size else ""])
    head = ["sentences a second"]
    for shortest, longest in (texts["words"] for texts in sets):
        head += [f"{shortest} to {longest} words", "error", "as"]
    return table([*head, "weights"], rows)


def encoder_promises(result: Result) -> str:
    """Return what minilm is promised in each dtype."""
    rows = []
    for texts in result["sets"]:
        shortest, longest = texts["words"]
        for one in texts["promises"]:
            figures = [f"{one['measured']:.3g}", f"{one['limit']:g}", kept(one["met"])]
            rows.append([f"{shortest} to {longest} words", one["promise"].replace(" : ", " over "), *figures])
    return table(["texts", "promise", "measured", "limit", "kept"], rows)


def captures(result: Result) -> str:
    """Return what is taken out of a decoder beside interp-engine, and what edits cost."""
    rows = [
        [
            one["question"],
            str(one["connections"]),
            f"{one['heed']['requests_per_second']:.1f}",
            f"{one['other']['requests_per_second']:.1f}",
            f"{one['ratio']:.2f}",
            f"{one['limit']:g}",
            kept(one["met"]),
        ]
        for one in result["rows"]
    ]
    head = ["requests a second", "connections", "Heed", "beside it", "ratio", "promised", "kept"]
    return table(head, rows)


def families(result: Result) -> str:
    """Return each family at both lengths."""
    rows = []
    for one in result["rows"]:
        ours, theirs = (statistics.median(one[who]) for who in ("heed", "transformers"))
        rows.append(
            [
                one["family"],
                "{} to {}".format(*one["lengths"]),
                f"{ours:.1f}",
                f"{theirs:.1f}, {one['better']}",
                f"{one['ratio']:.2f}",
                f"{one['limit']:g}",
                kept(one["ratio"] >= one["limit"]),
            ]
        )
    return table(
        ["family", "tokens", "Heed, sequences a second", "transformers", "ratio", "promised", "kept"], rows
    )


def long(result: Result) -> str:
    """Return one layer on long sequences, and its memory."""
    rows = []
    for one in result["rows"]:
        times = one["milliseconds"]
        other = min(times["torch"], times["torch, prepacked"])
        cells = [f"{one['tokens']:,}", f"{times['z']:,.1f}", f"{other:,.1f}", f"{times['z + top-k']:,.1f}"]
        rows.append([*cells, f"{one['z']:.2f}", f"{one['top_k']:.2f}", kept(one["met"])])
    head = ["tokens", "z, ms", "torch, ms", "z + top-k, ms", "torch / z", "z + top-k / z", "kept"]
    last = f"{result['rows'][-1]['tokens']:,}"
    memory = f"Peak memory of a fresh process with z + top-k at {last} tokens: {result['peak_mib']:.0f} MiB."
    return f"{table(head, rows)}\n\n{memory}"


def derived(result: Result) -> str:
    """Return outputs derived from weights beside z."""
    rows = [
        [
            one["outputs"],
            str(one["connections"]),
            f"{one['rate']:.0f}",
            f"{one['of_z']:.2f}",
            f"{one['of_weights']:.2f}",
        ]
        for one in result["rows"]
    ]
    return table(["outputs", "connections", "requests a second", "of z", "of z + weights, unsent"], rows)


def dtypes(result: Result) -> str:
    """Return the layer in each dtype."""
    rows = [
        [f"`{one['dtype']}`", str(one["connections"]), f"{one['rate']:.0f}", f"{one['ratio']:.2f}"]
        for one in result["rows"]
    ]
    return table(["dtype", "connections", "requests a second", "of float32's"], rows)


def errors(result: Result) -> str:
    """Return how far each dtype is from float64."""
    return "\n".join([ERROR_HEAD, *(row(dtype, of) for dtype, of in result["dtypes"].items())])


def order(result: Result) -> str:
    """Return what becomes of the order of sentences."""
    return "\n".join([ORDER_HEAD, *(order_row(dtype, of) for dtype, of in result["dtypes"].items())])


def rules(result: Result) -> str:
    """Return attention under every rule: ours, and the best other, at each length."""
    lengths = sorted({one["tokens"] for one in result})
    by: dict[str, list[str]] = {}
    for one in result:
        other = min(one[way] for way in ("fused", "plain") if way in one)
        by.setdefault(one["rule"], []).append(f"{one['heed']:.2f} · {other:.2f} ({one['ratio']:.2f})")
    head = ["ms: Heed · best of torch", *(f"{length:,} tokens" for length in lengths)]
    return table(head, [[rule, *cells] for rule, cells in by.items()])


def products(result: Result) -> str:
    """Return GFLOP/s of products in each dtype: ours, and the best other's."""
    rows: dict[tuple[str, str], list[str]] = {}
    counts: dict[int, None] = {}
    for one in result["products"]:
        other = max(rate for name, rate in one["speed"].items() if name != "heed")
        cells = rows.setdefault((f"`{one['kind']}`", f"{one['in']:,} → {one['out']:,}"), [])
        cells.append(f"{one['speed']['heed']:.0f} · {other:.0f}")
        counts[one["rows"]] = None
    head = ["ours · best other", "", *(f"{count:,} rows" for count in counts)]
    return table(head, [[*key, *cells] for key, cells in rows.items()])


# A table's name, the result it is made of, and how.
TABLES: dict[str, tuple[str, Callable[[Result], str]]] = {
    "encoders": ("encoders", encoders),
    "promises": ("encoders", encoder_promises),
    "captures": ("captures", captures),
    "families": ("families", families),
    "long": ("long", long),
    "derived": ("derived", derived),
    "dtypes": ("dtypes", dtypes),
    "errors": ("precision", errors),
    "order": ("precision", order),
    "rules": ("rules", rules),
    "products": ("kernels", products),
}


def rendered(name: str, results: Path = RESULTS) -> str | None:
    """Return a table, None where its benchmark has kept nothing, or an older one something else."""
    source, make = TABLES[name]
    file = results / f"{source}.json"
    try:
        return make(json.loads(file.read_text())["result"]) if file.exists() else None
    except (KeyError, TypeError):
        return None


def filled(text: str, results: Path = RESULTS) -> str:
    """Return a page with every place filled whose result is there."""

    def fill(place: re.Match[str]) -> str:
        made = rendered(place["name"], results)
        return place[0] if made is None else f"<!-- table {place['name']} -->\n{made}\n<!-- end -->"

    return PLACE.sub(fill, text)


def main() -> int:
    """Print tables, or write them where they belong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TABLES))
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    if chosen.write:
        for page in sorted(DOCS.rglob("*.md")):
            before = page.read_text()
            if (after := filled(before)) != before:
                page.write_text(after)
                print(f"wrote {page.relative_to(DOCS.parent)}")
        return 0
    for name in chosen.names or TABLES:
        print(f"## {name}\n\n{rendered(name) or 'not measured'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
