"""What our server and other people's tools are asked alike: token ids, and edits as a request has them."""

from typing import Any

import numpy as np

LENGTH = 14
LAST = LENGTH - 1
IDS = [int(one) for one in np.random.default_rng(5).integers(3, 49, LENGTH)]
DONOR_IDS = [*IDS[:4], IDS[10], *IDS[5:10], IDS[4], *IDS[11:]]  # two words changed places
DONOR = 0  # which input of a request has them
ESM_IDS = [0, *(4 + at * 7 % 20 for at in range(21)), 2]
DRAWN_LAYER = 1  # whose heads CircuitsVis is given
SILENCED = (1, 2)  # a layer, and one of its heads
LOG_ALPHA = -4.605  # ln 0.01: how far PASTA (arXiv 2311.02262, equation 2) lowers what is not emphasised
SPAN = range(9, 12)
PATTERNS = ("previous", "self", "first", "uniform")
LONG_IDS = [int(one) for one in np.random.default_rng(7).integers(3, 49, 40)]
INSTRUCTION, DOCUMENTS = (1, 6), ((6, 14), (14, 20), (20, 29))  # where in them what stands
QUESTION, ANSWER = (29, 34), (34, 40)
ANSWER_ROWS = {
    "start": ANSWER[0] - 1,
    "stop": ANSWER[1] - 1,
}  # that predict it: each one before its token


def edits(*, causal: bool, head_width: int) -> dict[str, list[dict[str, Any]]]:
    """Return each list of `edits` of one input, by a name that says what it does."""
    chance = np.random.default_rng(6)
    outside = [at for at in range(LENGTH) if at not in SPAN]
    drawn = chance.random((LENGTH, LENGTH))
    drawn = np.tril(drawn) if causal else drawn
    pattern = (drawn / drawn.sum(-1, keepdims=True)).astype(np.float32).tolist()
    vectors = chance.standard_normal((1, 2, head_width)).astype(np.float32).tolist()
    verbs: dict[str, list[dict[str, Any]]] = {
        "a head silenced": [{"edit": "scale", "heads": [list(SILENCED)], "value": 0}],
        "a head scaled": [{"edit": "scale", "heads": [[0, 0]], "value": 2.5}],
        "a head scaled at two queries": [
            {"edit": "scale", "heads": [[1, 3]], "queries": [4, LAST], "value": -0.5}
        ],
        "edges blocked in two layers": [
            {"edit": "block", "layers": [1, 2], "queries": [LAST, 8], "keys": [2, 7]}
        ],
        "an edge blocked in one head": [
            {"edit": "block", "heads": [[0, 1]], "queries": [LAST], "keys": [LAST - 1]}
        ],
        "all but a span lowered": [
            {"edit": "add", "heads": [[0, 1], [0, 3], [2, 0]], "keys": outside, "value": LOG_ALPHA}
        ],
        "scores raised in a layer": [{"edit": "add", "layers": [1], "keys": [5], "value": 1.5}],
        "a pattern replaced": [{"edit": "pattern", "heads": [[1, 3]], "value": pattern}],
        "a head set at two queries": [
            {"edit": "set", "heads": [[1, 1]], "queries": [3, 6], "value": vectors}
        ],
        "a head from another input": [{"edit": "from", "heads": [[1, 1]], "input": DONOR}],
        "a head from another input at a query": [
            {"edit": "from", "heads": [[2, 0]], "input": DONOR, "queries": [LAST]}
        ],
    }
    for name in PATTERNS:
        verbs[f"the pattern {name}"] = [{"edit": "pattern", "heads": [[0, 2]], "value": name}]
    verbs["six of one head"] = [  # against the order in which they are carried out
        {"edit": "scale", "heads": [[1, 1]], "value": 0.5},
        {"edit": "from", "heads": [[1, 1]], "input": DONOR, "queries": [LAST]},
        {"edit": "set", "heads": [[1, 1]], "queries": [3, 6], "value": vectors},
        {"edit": "pattern", "heads": [[1, 1]], "queries": [8, 9], "value": "self"},
        {"edit": "block", "heads": [[1, 1]], "keys": [1], "queries": {"outside": [[0, 2]]}},
        {"edit": "add", "heads": [[1, 1]], "keys": [4, 1], "value": 0.7},
    ]
    return verbs


def grid(layers: int, heads: int) -> list[list[dict[str, Any]]]:
    """Return the edits of a patching grid: for each head of each layer those that take it from the donor."""
    return [
        [{"edit": "from", "heads": [[layer, head]], "input": DONOR, "queries": [LAST]}]
        for layer in range(layers)
        for head in range(heads)
    ]
