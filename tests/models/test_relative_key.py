"""BERT with vectors of distances in place of a table of positions, which transformers 5 has dropped.

The reference is transformers' own BERT, its table of positions set to zero and its attention replaced by the
formula of Shaw et al. 2018 (equation 4), and of Huang et al. 2020 (method 4) for `relative_key_query`.
"""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.encoder.positions import DistanceBias
from models.errors import SpecError
from models.mechanism import PositionSpec
from models.outputs import Selection
from models.protocol import Item, Tokens
from models.runtime import TorchRuntime

LAYERS, HEADS, WIDTH, MOST = 2, 4, 8, 24
SIZES = {
    "vocab_size": 50,
    "hidden_size": HEADS * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": MOST,
}
FAMILIES = {"bert": "", "roberta": "", "xlm-roberta": "", "camembert": "", "electra": ""}
TABLE = "encoder.layer.{}.attention.self.distance_embedding.weight"


def relative(kind, tables):
    """Return transformers' attention function with distances: q·k + q·a[i − j] (+ k·a[i − j]), scaled."""

    def attend(module, query, key, value, attention_mask, scaling=None, **_):
        table = tables[module.layer_idx] if module.layer_idx is not None else tables[attend.calls % LAYERS]
        attend.calls += 1
        at = torch.arange(query.shape[2])
        vectors = table[at[:, None] - at[None, :] + MOST - 1]
        scores = query @ key.mT + torch.einsum("bhld,lrd->bhlr", query, vectors)
        if kind == "relative_key_query":
            scores = scores + torch.einsum("bhrd,lrd->bhlr", key, vectors)
        scores = scores * (query.shape[-1] ** -0.5)
        if attention_mask is not None:
            scores = scores + attention_mask
        weights = scores.softmax(-1)
        attend.weights.append(weights)
        return (weights @ value).transpose(1, 2), weights

    attend.calls, attend.weights = 0, []
    return attend


@pytest.fixture(params=[(f, k) for f in FAMILIES for k in ("relative_key", "relative_key_query")], ids=str)
def model(request, tmp_path):
    """One family's folder as transformers 4 saved it, and what its attention gives."""
    family, kind = request.param
    torch.manual_seed(3)
    config = transformers.CONFIG_MAPPING[family](**SIZES)
    eager = transformers.AutoModel.from_config(config).double().eval()
    with torch.no_grad():
        for tensor in eager.parameters():
            tensor.copy_(torch.randn_like(tensor) * (0.2 if tensor.ndim == 1 else 0.4))
    folder = tmp_path / "model"
    eager.float().save_pretrained(folder)
    tables = [torch.randn(2 * MOST - 1, WIDTH) for _ in range(LAYERS)]
    weights = load_file(folder / "model.safetensors")
    weights |= {TABLE.format(layer): table for layer, table in enumerate(tables)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"position_embedding_type": kind}))
    runtime = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    attend = relative(kind, [table.double() for table in tables])
    transformers.AttentionInterface.register("distances", attend)
    eager.double().set_attn_implementation("distances")
    eager.embeddings.position_embeddings.weight.data.zero_()

    def expect(ids):
        attend.weights.clear()
        with torch.inference_mode():
            hidden = eager(torch.from_numpy(ids)[None]).last_hidden_state[0]
        return torch.cat(attend.weights).numpy(), hidden.numpy()

    return runtime, expect


def test_scores_have_the_vectors_of_distances_in_them_alone_and_in_a_batch(model):
    runtime, expect = model
    card, chance = runtime.card("model"), np.random.default_rng(1)
    given = [chance.integers(3, 50, length) for length in (MOST - 2, 1, 9, 2)]
    outputs = ("weights", "entropy", "hidden")
    chosen = Selection(outputs=outputs, layers=tuple(range(LAYERS)), layer_axis=True)
    items = [Item(card=card, input=Tokens(ids=ids), selection=chosen) for ids in given]
    together = runtime.run(items).answers
    for item, ids, batched in zip(items, given, together, strict=True):
        (alone,) = runtime.run([item]).answers
        weights, hidden = expect(ids)
        for answer in (alone, batched):
            np.testing.assert_allclose(answer.tensors["weights"], weights, atol=1e-5)
            np.testing.assert_allclose(answer.tensors["hidden"][-1], hidden, atol=1e-5 * np.abs(hidden).max())


def test_a_folder_that_says_relative_key_and_has_no_tables_is_refused(tmp_path):
    folder = tmp_path / "model"
    transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"position_embedding_type": "relative_key"}))
    with pytest.raises(SpecError, match=r"missing layers\.0\.attention\.distances\.weight"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")


def test_tables_of_distances_that_no_field_speaks_of_are_refused(tmp_path):
    folder = tmp_path / "model"
    transformers.BertModel(transformers.BertConfig(**SIZES)).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors") | {TABLE.format(0): torch.zeros(2 * MOST - 1, WIDTH)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SpecError, match="distance_embedding"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")


@pytest.mark.parametrize("of_keys", [False, True])
def test_any_rows_and_heads_are_those_of_the_whole_and_far_keys_are_clipped(of_keys):
    torch.manual_seed(0)
    table, q, k = torch.randn(7, 5), torch.randn(4, 9, 5), torch.randn(2, 12, 5)
    bias = DistanceBias(table, q, k, 0.5, of_keys)
    whole = bias(slice(0, 9), None)
    for i in range(9):
        for j in range(12):
            vector = table[min(max(i - j, -3), 3) + 3]
            for h in range(4):
                score = q[h, i] @ vector + (k[h // 2, j] @ vector if of_keys else 0.0)
                assert float(whole[h, i, j]) == pytest.approx(float(0.5 * score), abs=1e-5)
    assert torch.allclose(bias(slice(3, 6), [2, 0]), whole[[2, 0], 3:6])


def test_what_has_no_position_needs_a_row_before_the_first():
    with pytest.raises(SpecError, match="offset of 1 or more"):
        PositionSpec(kind="learned", max_positions=8, padding=1)
    with pytest.raises(SpecError, match="need a learned table"):
        PositionSpec(kind="rotary", offset=2, skip_masked=True)
    with pytest.raises(SpecError, match="max_positions is missing"):
        PositionSpec(kind="relative_key")
    assert PositionSpec(kind="relative_key", max_positions=8).distances == 15
