"""nnsight, unmodified, silences a head of GPT-2: before the output projection, and as its own page says.

    python -m tests.peers.hooks REPOSITORY OUT.npz

Runs where nnsight is installed. `plain`, `before`, `documented`: logits [T, V]. The page is
docs/patterns/per-head-attention.md: it cuts the attention module's output, which is after W_O, into heads.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from nnsight import LanguageModel

from tests.peers.questions import IDS, SILENCED


def main(repository: Path, out: Path) -> None:
    """Write the logits of three runs."""
    layer, head = SILENCED
    bare = transformers.GPT2LMHeadModel.from_pretrained(
        repository / "gpt2", attn_implementation="eager"
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(repository / "gpt2")
    model = LanguageModel(bare, tokenizer=tokenizer)
    heads = bare.config.n_head
    width = bare.config.n_embd // heads
    ids = torch.tensor([IDS])
    with torch.no_grad():
        plain = bare(ids).logits
        with model.trace(ids):
            given = model.transformer.h[layer].attn.c_proj.input.clone()
            given[:, :, head * width : (head + 1) * width] = 0
            model.transformer.h[layer].attn.c_proj.input = given
            before = model.lm_head.output.save()
        with model.trace(ids):
            made = model.transformer.h[layer].attn.output
            cut = made[0].view(1, len(IDS), heads, width).clone()
            cut[:, :, head] = 0
            model.transformer.h[layer].attn.output = (cut.view(1, len(IDS), heads * width), *made[1:])
            documented = model.lm_head.output.save()
    logits = {"plain": plain, "before": before, "documented": documented}
    np.savez(out, **{name: one[0].numpy() for name, one in logits.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
