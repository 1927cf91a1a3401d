"""How one attention matrix looks in a terminal."""

import numpy as np
from rich.text import Text

from service.commands.drawing import heatmap


def cells(line: Text) -> list[tuple[str, str]]:
    """Return characters and colour of each cell."""
    found = [(line.plain[span.start : span.end], str(span.style)) for span in line.spans]
    return [(text, style.split(" on ")[0]) for text, style in found if " on " in style]


def test_heatmap_is_brightest_where_attention_is():
    weights = np.array([[0.1, 0.9], [1.0, 0.0]], np.float32)
    first, second = heatmap(weights, ["a", "b"], top_k=1)
    assert cells(second) == [("██", "rgb(255,176,46)"), ("  ", "rgb(24,26,38)")]
    assert cells(first) == [("  ", "rgb(47,41,39)"), ("██", "rgb(232,161,45)")]
    assert first.plain.split() == ["a", "██", "b", "0.90"]
    assert second.plain.split() == ["b", "██", "a", "1.00"]


def test_long_rows_are_drawn_in_stretches_that_keep_the_largest():
    weights = np.zeros((1, 1000), np.float32)
    weights[0, 777] = 1
    (line,) = heatmap(weights, [], top_k=1)
    drawn = [text for text, _ in cells(line)]
    assert len(drawn) == 64
    assert drawn.count("█") == 1
    assert drawn.index("█") == 777 * 64 // 1000
    assert line.plain.split() == ["0", "█", "777", "1.00"]


def test_control_characters_of_tokens_do_not_reach_the_terminal():
    (line,) = heatmap(np.ones((1, 1), np.float32), ["\x1b[31m\r\n" + "x" * 40], top_k=1)
    assert "\x1b" not in line.plain
    assert "\n" not in line.plain
    assert len(line.plain) < 60
