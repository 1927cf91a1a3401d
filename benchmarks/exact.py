"""What errors are measured against: transformers' eager BERT in float64, weights and activations alike."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import BertModel
from transformers.utils import logging

Arrays = dict[str, NDArray[np.floating]]


class Exact:
    """A sentence encoder's folder, pooled by the mean over tokens and brought to length 1, as minilm is."""

    def __init__(self, folder: Path) -> None:
        logging.disable_progress_bar()
        self.model = BertModel.from_pretrained(folder, attn_implementation="eager").double().eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        limits = json.loads((folder / "sentence_bert_config.json").read_text())
        self.tokenizer.enable_truncation(limits["max_seq_length"])
        self.tokenizer.no_padding()

    def ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return each text's token ids, cut where sentence-transformers cuts them."""
        return [np.array(one.ids) for one in self.tokenizer.encode_batch(list(texts))]

    def layers(self, ids: NDArray[np.int64]) -> Arrays:
        """Return weights [L, H, T, T], hidden [L, T, D] and pooled [D] of one sequence."""
        with torch.inference_mode():
            out = self.model(torch.from_numpy(ids)[None], output_attentions=True, output_hidden_states=True)
        hidden = torch.cat(out.hidden_states[1:])
        pooled = torch.nn.functional.normalize(hidden[-1].mean(dim=0), dim=0)
        return {
            "weights": torch.cat(out.attentions).numpy(),
            "hidden": hidden.numpy(),
            "pooled": pooled.numpy(),
        }

    def pooled(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return [N, D] of several texts, each by itself."""
        rows = []
        with torch.inference_mode():
            for ids in self.ids(texts):
                mean = self.model(torch.from_numpy(ids)[None]).last_hidden_state[0].mean(dim=0)
                rows.append(torch.nn.functional.normalize(mean, dim=0).numpy())
        return np.stack(rows)
