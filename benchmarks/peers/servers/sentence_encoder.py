"""sentence-transformers in process: `sentence_encoder.py <model folder> <sentences.json>`.

Writes the first sentence's embedding as one line of JSON; then reads lines `<batch size> <seconds>` and
answers each with the sentences a second that `encode` reached. 0 seconds: all sentences once, in one call.
"""

import json
import sys
import time
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

SLICE = 64  # sentences in one call, which sorts them by length before it makes batches


def main() -> None:
    """Encode as asked, until the input ends."""
    torch.set_num_threads(2)
    model = SentenceTransformer(sys.argv[1], device="cpu")
    sentences = json.loads(Path(sys.argv[2]).read_text())
    model.encode(sentences[:SLICE], batch_size=32)
    print(json.dumps(model.encode(sentences[:1])[0].tolist()), flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        done, at, begin = 0, 0, time.perf_counter()
        if float(seconds) == 0:
            done = len(model.encode(sentences, batch_size=int(batch)))
        while time.perf_counter() - begin < float(seconds):
            done += len(model.encode(sentences[at : at + SLICE], batch_size=int(batch)))
            at = (at + SLICE) % len(sentences)
        print(done / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main()
