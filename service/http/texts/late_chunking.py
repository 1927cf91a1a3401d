"""`late_chunking` of `/v1/embeddings`: the inputs are chunks of one text, run once and pooled by chunk.

Each vector knows the text around its chunk (Günther et al., "Late Chunking", 2024); asked for as Jina's
clients do, whose API puts the inputs together too.
"""

from collections.abc import Sequence

import numpy as np

from models.protocol import ModelCard
from service.errors import Invalid
from service.http.schemas import AttendInput
from service.http.selection import require_pooled_spans
from service.wire.effort import spend

CHUNK_US = 1.0  # what one takes to be put to the others, in microseconds


def one_of_chunks(inputs: Sequence[AttendInput], prompt: str, card: ModelCard) -> AttendInput:
    """Return one input of which each of these is a span: of characters of a text, or of positions of ids.

    Texts between which there is no white space are parted by one space. The prompt comes before the first,
    and is of no chunk. Raises Invalid for a chunk of nothing, and where a model pools whole sequences alone.
    """
    require_pooled_spans(card)
    spend(CHUNK_US * len(inputs))
    if inputs[0].text is None:
        return _of_ids(inputs)
    parts, spans, at = [prompt], [], len(prompt)
    for index, one in enumerate(inputs):
        text = one.text or ""
        if not text.strip():
            raise Invalid(f"input[{index}] is a chunk without text; leave it out")
        if index and not (text[0].isspace() or parts[-1][-1].isspace()):
            parts.append(" ")
            at += 1
        spans.append([at, at + len(text)])
        parts.append(text)
        at += len(text)
    return AttendInput(text="".join(parts), spans=spans)


def _of_ids(inputs: Sequence[AttendInput]) -> AttendInput:
    lists = [np.asarray(one.token_ids) for one in inputs]
    ends = np.cumsum([len(ids) for ids in lists]).tolist()
    spans = [[end - len(ids), end] for ids, end in zip(lists, ends, strict=True)]
    return AttendInput(token_ids=np.concatenate(lists), spans=spans)
