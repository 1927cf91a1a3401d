"""How many of a thing one request may name: looked at before any is made."""

MOST_INPUTS = 4096  # sequences, texts or problems
MOST_SPANS = 1 << 15  # of one sequence
MOST_PAIRS = 1 << 18  # of layers and heads, of all sequences together
MOST_NAMES = 256  # of spans of one sequence
MOST_TEXT_BYTES = 1 << 22  # of one text: what is longer has over 2^20 characters, whichever they are
MOST_EDITS = 64  # of one sequence
MOST_EDITS_TOGETHER = 1 << 13  # of all sequences of a request
MOST_EDITED_HEADS = 1 << 20  # of all edits of a request together, each edit's counted
