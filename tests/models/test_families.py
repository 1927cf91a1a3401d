import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.config import read_json
from models.errors import SpecError
from models.families import read_spec
from models.naming import HEED
from models.spec import EmbeddingSpec, ModelSpec, PoolingSpec

BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "vocab_size": 10,
}
MODELS = "sentence_transformers.models"
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": f"{MODELS}.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{MODELS}.Pooling"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{MODELS}.Normalize"}


def write(folder: Path, config: object, **files: object) -> Path:
    """A model folder of JSON files (`__` in a name is a folder) and a safetensors file of no meaning."""
    save_file({"any": torch.zeros(1)}, folder / "model.safetensors")
    for name, content in {"config": config, **files}.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def pooling_of(folder: Path, modules: object, **modes: object) -> PoolingSpec | None:
    return read_spec(write(folder, BERT, modules=modules, **{"1_Pooling__config": modes})).spec.pooling


def test_minilm_is_read_as_what_it_is(minilm_folder):
    found = read_spec(minilm_folder)
    assert (found.family, found.weights.name, found.tokenizer.name) == (
        "bert",
        "model.safetensors",
        "tokenizer.json",
    )
    assert (found.spec.layers, found.spec.heads, found.spec.d_model) == (6, 12, 384)
    assert (found.spec.norm.eps, found.spec.positions.max_positions) == (1e-12, 512)
    assert found.spec.pooling == PoolingSpec(mode="mean", normalize=True)


def test_a_heed_folder_is_read_back_as_it_was_written(tmp_path):
    spec = ModelSpec(
        d_model=8, heads=2, embedding=EmbeddingSpec(vocabulary=5), pooling=PoolingSpec(mode="cls")
    )
    found = read_spec(write(tmp_path, spec.to_config(), tokenizer={}))
    assert (found.family, found.spec, found.naming) == ("heed", spec, HEED)
    assert found.tokenizer == tmp_path / "tokenizer.json"


def test_a_model_without_an_embedding_table_has_no_tokenizer(tmp_path):
    assert read_spec(write(tmp_path, ModelSpec(d_model=8).to_config(), tokenizer={})).tokenizer is None


def test_the_vocabulary_stands_in_for_a_missing_tokenizer_file(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    assert read_spec(write(tmp_path, BERT)).tokenizer == tmp_path / "vocab.txt"


def test_an_index_of_shards_stands_in_for_one_file(tmp_path):
    write(tmp_path, BERT)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert read_spec(tmp_path).weights.name == "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("stated", "dtype"), [("bfloat16", "bfloat16"), ("int8", None), ([], None), (None, None)]
)
def test_the_stored_dtype_is_what_the_configuration_says(tmp_path, stated, dtype):
    assert read_spec(write(tmp_path, BERT | {"torch_dtype": stated})).dtype == dtype
    assert read_spec(write(tmp_path, BERT | {"dtype": stated})).dtype == dtype


def test_heed_must_be_the_first_key(tmp_path):
    with pytest.raises(SpecError, match="first"):
        read_spec(write(tmp_path, {"d_model": 8, "heed": 1}))


def test_a_configuration_of_no_kind_is_refused(tmp_path):
    with pytest.raises(SpecError, match="neither heed"):
        read_spec(write(tmp_path, {"d_model": 8}))


def test_pickled_weights_are_refused_with_the_remedy(tmp_path):
    write(tmp_path, BERT)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SpecError, match="only safetensors are read"):
        read_spec(tmp_path)


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(SpecError, match=r"config.json cannot be read: No such file"):
        read_spec(tmp_path)


def test_an_encoder_without_sentence_transformers_files_has_no_pooling(tmp_path):
    assert read_spec(write(tmp_path, BERT)).spec.pooling is None


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_pooling_is_the_one_mode_that_is_switched_on(tmp_path, key, mode):
    off = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False, "word_embedding_dimension": 8}
    assert pooling_of(tmp_path, [TRANSFORMER, POOLING], **off | {key: True}) == PoolingSpec(mode=mode)
    normalized = PoolingSpec(mode=mode, normalize=True)
    assert pooling_of(tmp_path, [TRANSFORMER, POOLING, NORMALIZE], **off | {key: True}) == normalized


def test_pooling_may_be_named_in_the_newer_spelling(tmp_path):
    assert pooling_of(tmp_path, [TRANSFORMER, POOLING], pooling_mode="cls") == PoolingSpec(mode="cls")


@pytest.mark.parametrize(
    ("modules", "modes"),
    [
        ([TRANSFORMER, POOLING], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}),
        ([TRANSFORMER, POOLING], {"pooling_mode_weightedmean_tokens": True}),
        ([TRANSFORMER, POOLING], {}),
        ([TRANSFORMER, POOLING, POOLING | {"type": "m.Dense"}], {"pooling_mode_cls_token": True}),
        ([TRANSFORMER, NORMALIZE, POOLING], {"pooling_mode_cls_token": True}),
        ([POOLING | {"type": "m.CLIPModel"}], {}),
    ],
)
def test_pooling_that_cannot_be_exact_is_not_offered_and_the_reason_noted(tmp_path, modules, modes):
    found = read_spec(write(tmp_path, BERT, modules=modules, **{"1_Pooling__config": modes}))
    assert found.spec.pooling is None
    assert "pooled is not offered" in found.notes[0]


@pytest.mark.parametrize("path", ["../other", "/etc", "..", ".hidden", "a/b", 7, None])
def test_a_module_path_that_leads_elsewhere_is_refused(tmp_path, path):
    with pytest.raises(SpecError, match="path"):
        pooling_of(tmp_path, [TRANSFORMER, POOLING | {"path": path}], pooling_mode_cls_token=True)


@pytest.mark.parametrize("modules", [{}, [7], [{"path": ""}], '"text"'])
def test_modules_that_are_not_a_list_of_modules_are_refused(tmp_path, modules):
    with pytest.raises(SpecError, match=r"modules.json"):
        pooling_of(tmp_path, modules)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "must hold an object"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is given twice"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "Infinity is not a number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
        ("\ufeff\ufeff{}", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (" " * 101, "over 100 bytes"),
    ],
)
def test_json_that_is_not_strict_is_refused(tmp_path, content, reason):
    file = tmp_path / "some.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SpecError, match=reason) as refusal:
        read_json(file, limit_bytes=100 if reason.startswith("over") else 10**6)
    assert "some.json" in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_json_written_by_an_editor_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "some.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "some.json") == {"a": 1}
