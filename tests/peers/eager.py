"""transformers' own eager attention with the verbs put into it: for models on which other tools cannot edit.

TransformerLens hands out a BERT's scores and weights after they are used: a change is discarded, it warns.
"""

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from tests.peers import verbs

NAME = "eager_with_edits"


class Edited:
    """One model whose attention does what edits say; layers are counted as they are called."""

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        self.heads = model.config.num_attention_heads
        self.by_layer: dict[int, list[tuple[verbs.Edit, list[int]]]] = {}
        self.weights: list[Tensor] = []
        self.z: list[Tensor] = []
        self.donor: list[Tensor] = []
        AttentionInterface.register(NAME, self._attend)
        AttentionMaskInterface.register(NAME, eager_mask)
        model.set_attn_implementation(NAME)
        self.model = model

    def run(self, ids: list[int], edits: list[verbs.Edit]) -> tuple[Tensor, Tensor]:
        """Return the last block's output [T, d] and all weights [L, H, T, T]."""
        self.by_layer = verbs.by_layer(edits, self.heads)
        self.weights, self.z = [], []
        with torch.no_grad():
            hidden = self.model.base_model(torch.tensor([ids])).last_hidden_state[0]
        return hidden, torch.stack(self.weights)

    def _attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        layer = len(self.weights)
        scores = query @ key.transpose(2, 3) * scaling
        one = (scores if attention_mask is None else scores + attention_mask)[0]
        mine = self.by_layer.get(layer, [])
        for edit, heads in mine:
            if edit["edit"] in verbs.OF_SCORES:
                one = verbs.edit_scores(edit, heads, one)
        weights = one.softmax(-1)
        for edit, heads in mine:
            if edit["edit"] in verbs.OF_WEIGHTS:
                weights = verbs.edit_weights(edit, heads, weights)
        z = (weights @ value[0]).transpose(0, 1)
        for edit, heads in mine:
            if edit["edit"] in verbs.OF_Z:
                z = verbs.edit_z(edit, heads, z, self.donor[layer] if self.donor else z)
        self.weights.append(weights)
        self.z.append(z)
        return z[None].contiguous(), weights[None]
