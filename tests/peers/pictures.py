"""BertViz and CircuitsVis, unmodified, draw what our client hands them; what is in their pages is read back.

    python -m tests.peers.pictures URL OUT.npz NAME ...

Runs where both are installed. Of each model `NAME/bertviz` [L, H, T, T], `NAME/circuitsvis` [H, T, T] of one
layer, and `NAME/hidden`: whether CircuitsVis leaves out what is above the diagonal.
"""

import json
import sys
from pathlib import Path
from typing import Any

import bertviz
import numpy as np
from circuitsvis.attention import attention_heads

import heed_client
from tests.peers.questions import DRAWN_LAYER, IDS


def drawn(page: str, after: str) -> Any:
    """Return the JSON in a page that stands after some words."""
    start = page.index("{", page.rindex(after))
    return json.JSONDecoder().raw_decode(page, start)[0]


def main(url: str, out: Path, names: list[str]) -> None:
    """Write what is in the pages."""
    found = {}
    with heed_client.Client(url) as client:
        for name in names:
            (one,) = client.attend(name, np.array(IDS), outputs=["weights"], layers="all")
            page = bertviz.head_view(**one.for_bertviz(), html_action="return").data
            found[f"{name}/bertviz"] = drawn(page, "const params =")["attention"][0]["attn"]
            shown = attention_heads(**one.for_circuitsvis(layer=DRAWN_LAYER))
            heads = drawn(shown.local_src, "CircuitsVis.AttentionHeads,")
            found[f"{name}/circuitsvis"] = heads["attention"]
            found[f"{name}/hidden"] = heads["maskUpperTri"]
    np.savez(out, **found)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
