"""A thousand real sentences: Heed over HTTP, sentence-transformers in process, infinity over HTTP.

python -m benchmarks.embeddings [--quick] [--only sentence-transformers infinity]

Every sentence once, in turns, medians of the rounds. Heed is to be at least as fast as
sentence-transformers called in process with its own batching, and 1.5 times as fast as infinity asked in
the same way; the status is 1 where it is not.
"""

import argparse
import contextlib
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.sentences import TEXT_PEERS, Measure, over_http, text_bodies
from benchmarks.report import save
from benchmarks.serve import serving
from benchmarks.workload import whole_sentences
from models.training.demo import place_demo_models

SENTENCES = 1000
OWN_BATCH = 32  # what sentence-transformers' `encode` takes unless told otherwise
TARGETS = {"sentence-transformers": 1.0, "infinity": 1.5}
REPOSITORY = Path(__file__).parents[1] / "repository"
PATH = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Form:
    """How a caller asks over HTTP: connections, and sentences a request."""

    connections: int
    at_once: int

    def __str__(self) -> str:
        return f"{self.connections} × {self.at_once}"


FORMS = (Form(1, SENTENCES), Form(8, 16), Form(32, 16))


def rates(texts: list[str], peers: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return sentences a second of every round, by who and how asked."""
    found: dict[str, dict[str, list[float]]] = {}
    with serving("--models", "minilm", repository=REPOSITORY) as (url, _), contextlib.ExitStack() as running:
        ways: list[tuple[str, str, Measure, int, int]] = []
        for form in FORMS:
            measure = over_http(url, PATH, text_bodies(PATH, texts, form.at_once))
            ways.append(("Heed", str(form), measure, form.connections, form.at_once))
        for peer in peers:
            for form in FORMS if peer == "infinity" else FORMS[:1]:
                at_once = form.at_once if peer == "infinity" else 16  # sentence-transformers' rate is a 16th
                started = running.enter_context(TEXT_PEERS[peer](texts, form.at_once))
                asked = form.connections if peer == "infinity" else OWN_BATCH
                label = str(form) if peer == "infinity" else "in process"
                ways.append((peer, label, started.measure, asked, at_once))
        for number in range(rounds + 1):
            for who, how, measure, connections, at_once in ways:
                load = measure(connections, 0)
                if load.errors:
                    raise SystemExit(f"{who} refused {load.errors} requests")
                if number:  # the first is to warm up
                    requests = -(-len(texts) // at_once)  # the last one may be smaller
                    each = len(texts) / requests if how != "in process" else at_once
                    rate = load.requests_per_second * each
                    found.setdefault(who, {}).setdefault(how, []).append(rate)
    return found


def main() -> int:
    """Measure, print the table, keep the result; return 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 7")
    parser.add_argument("--only", nargs="+", choices=tuple(TARGETS), default=list(TARGETS))
    chosen = parser.parse_args()
    place_demo_models(REPOSITORY)
    texts = whole_sentences(SENTENCES)
    busy = os.getloadavg()[0]
    words = statistics.mean(len(text.split()) for text in texts)
    print(f"{len(texts)} sentences, {words:.1f} words on average; load average before: {busy:.2f}")
    found = rates(texts, chosen.only, 3 if chosen.quick else 7)
    print(f"\n{'':24} {'asked':12} {'sentences/s':>12}   (least to most)")
    for who, hows in found.items():
        for how, rounds in hows.items():
            middle, least, most = statistics.median(rounds), min(rounds), max(rounds)
            print(f"{who:24} {how:12} {middle:12.0f}   ({least:.0f} to {most:.0f})")
    missed = False
    print()
    for peer in chosen.only:
        for form in map(str, FORMS):
            theirs = found[peer].get(form) or found[peer]["in process"]
            pairs = zip(found["Heed"][form], theirs, strict=True)
            ratio = statistics.median(ours / others for ours, others in pairs)
            met = ratio >= TARGETS[peer]
            missed |= not met
            verdict = "" if met else "   MISSED"
            print(f"Heed {form:10} / {peer:22} {ratio:5.2f}   (at least {TARGETS[peer]}){verdict}")
    save("embeddings", {"sentences": len(texts), "load_average_before": busy, "rates": found})
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
