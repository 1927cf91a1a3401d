"""TransformerLens, unmodified, on every model under every edit; hooks do what the verbs mean.

    python -m tests.peers.lens REPOSITORY OUT.npz NAME ...

Runs where TransformerLens is installed. Of each model and list of edits: `NAME/EDITS/hidden` [T, d], what
enters the output table (an encoder's: the last block's output), and `weights` [L, H, T, T]; without edits
`logits` [T, V], and `lens` [L, T, V]: what the final norm and the table make of each block's output.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.peers import verbs
from tests.peers.models import DECODERS, head_width
from tests.peers.questions import DONOR_IDS, IDS, edits, grid

SCORES, PATTERN, Z = "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z"

Hook = tuple[str, Callable[..., Tensor | None]]


class Lens:
    """One model in TransformerLens."""

    def __init__(self, folder: Path) -> None:
        self.bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
        self.layers, self.heads = self.bridge.cfg.n_layers, self.bridge.cfg.n_heads
        self.decoder = folder.name in DECODERS
        self.last = "ln_final.hook_out" if self.decoder else f"blocks.{self.layers - 1}.hook_resid_post"
        self.donor = self.cached(DONOR_IDS)

    def cached(self, ids: list[int]) -> dict[str, Tensor]:
        """Return every activation of a run without edits."""
        with torch.no_grad():
            return dict(self.bridge.run_with_cache(torch.tensor([ids]))[1].items())

    def hook(self, layer: int, edit: verbs.Edit, heads: list[int]) -> Hook:
        """Return one edit of one layer as TransformerLens takes it."""
        block = f"blocks.{layer}."
        if edit["edit"] in verbs.OF_SCORES:
            return block + SCORES, lambda one, hook: verbs.edit_scores(edit, heads, one[0])[None]
        if edit["edit"] in verbs.OF_WEIGHTS:
            return block + PATTERN, lambda one, hook: verbs.edit_weights(edit, heads, one[0])[None]
        donor = self.donor[block + Z][0]
        return block + Z, lambda one, hook: verbs.edit_z(edit, heads, one[0], donor)[None]

    def run(self, ids: list[int], changes: list[verbs.Edit]) -> dict[str, np.ndarray]:
        """Return what a run under edits gives."""
        seen: dict[str, Tensor] = {}

        def seeing(name: str) -> Hook:  # a hook has several names: kept under ours
            return name, lambda given, hook: seen.update({name: given[0].detach().clone()})

        patterns = [f"blocks.{layer}.{PATTERN}" for layer in range(self.layers)]
        hooks = [
            self.hook(layer, edit, heads)
            for layer, many in verbs.by_layer(changes, self.heads).items()
            for edit, heads in many
        ]
        with torch.no_grad():
            self.bridge.run_with_hooks(
                torch.tensor([ids]), fwd_hooks=[*hooks, *map(seeing, (*patterns, self.last))]
            )
        weights = torch.stack([seen[name] for name in patterns])
        return {"hidden": seen[self.last].numpy(), "weights": weights.numpy()}

    def predictions(self, ids: list[int]) -> dict[str, np.ndarray]:
        """Return the logits, and those of every layer where the model has a final norm and a table."""
        with torch.no_grad():
            found = {"logits": self.bridge(torch.tensor([ids]))[0]}
            if self.decoder:
                cache = self.cached(ids)
                residual = [cache[f"blocks.{layer}.hook_resid_post"] for layer in range(self.layers)]
                found["lens"] = torch.stack(
                    [self.bridge.unembed(self.bridge.ln_final(one))[0] for one in residual]
                )
        return {name: one.numpy() for name, one in found.items()}


def main(repository: Path, out: Path, names: list[str]) -> None:
    """Write what TransformerLens makes of every model."""
    made: dict[str, np.ndarray] = {}
    for name in names:
        lens = Lens(repository / name)
        asked: dict[str, list[dict[str, Any]]] = {"nothing": []}
        asked |= edits(causal=lens.decoder, head_width=head_width(name))
        asked |= {f"patch {number}": one for number, one in enumerate(grid(lens.layers, lens.heads))}
        for label, changes in asked.items():
            made |= {f"{name}/{label}/{part}": one for part, one in lens.run(IDS, changes).items()}
        made |= {f"{name}/{part}": one for part, one in lens.predictions(IDS).items()}
    np.savez(out, **made)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
