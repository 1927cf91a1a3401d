import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.config import read_json
from models.errors import SpecError
from models.folders.families import read_spec
from models.folders.naming import HEED
from models.pooling_spec import PoolingSpec, PoolingStep
from models.spec import EmbeddingSpec, ModelSpec

BERT = {
    "model_type": "bert",
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "vocab_size": 10,
}


def write(folder: Path, config: object, **files: object) -> Path:
    """A model folder of JSON files (`__` in a name is a folder) and a safetensors file of no meaning."""
    save_file({"any": torch.zeros(1)}, folder / "model.safetensors")
    for name, content in {"config": config, **files}.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_minilm_is_read_as_what_it_is(minilm_folder):
    found = read_spec(minilm_folder)
    assert (found.family, found.weights.name, found.tokenizer.file.name) == (
        "bert",
        "model.safetensors",
        "tokenizer.json",
    )
    assert (found.spec.layers, found.spec.heads, found.spec.d_model) == (6, 12, 384)
    assert (found.spec.norm.eps, found.spec.positions.max_positions) == (1e-12, 512)
    assert found.spec.pooling == PoolingSpec(steps=(PoolingStep(kind="normalize"),), width=384)


def test_a_heed_folder_is_read_back_as_it_was_written(tmp_path):
    spec = ModelSpec(
        d_model=8, heads=2, embedding=EmbeddingSpec(vocabulary=5), pooling=PoolingSpec(modes=("cls",))
    )
    found = read_spec(write(tmp_path, spec.to_config(), tokenizer={}))
    assert (found.family, found.spec, found.naming) == ("heed", spec, HEED)
    assert found.tokenizer.file == tmp_path / "tokenizer.json"


def test_a_model_without_an_embedding_table_has_no_tokenizer(tmp_path):
    assert read_spec(write(tmp_path, ModelSpec(d_model=8).to_config(), tokenizer={})).tokenizer is None


def test_the_vocabulary_stands_in_for_a_missing_tokenizer_file(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n")
    assert read_spec(write(tmp_path, BERT)).tokenizer.file == tmp_path / "vocab.txt"


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


def test_a_pooling_of_older_heed_folders_is_read(tmp_path):
    config = ModelSpec(d_model=8, heads=2).to_config()
    found = read_spec(write(tmp_path, config | {"pooling": {"mode": "last", "normalize": True}}))
    assert found.spec.pooling == PoolingSpec(modes=("last",), steps=(PoolingStep(kind="normalize"),))


def test_a_pooling_with_weights_has_no_place_in_a_heed_folder(tmp_path):
    config = ModelSpec(d_model=8, heads=2).to_config()
    steps = [{"kind": "dense", "inputs": 8, "width": 2}]
    with pytest.raises(SpecError, match="weights of their own"):
        read_spec(write(tmp_path, config | {"pooling": {"modes": ["mean"], "steps": steps}}))


def test_weights_of_an_adapter_are_refused(tmp_path):
    with pytest.raises(SpecError, match="adapter"):
        read_spec(write(tmp_path, BERT, adapter_config={}))


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
