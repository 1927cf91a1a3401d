import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import SpecError
from models.folders.families import read_spec
from models.folders.sentence_files import SentenceFiles, read_sentence_files
from models.pooling_spec import PoolingSpec, PoolingStep

PACKAGE = "sentence_transformers"
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": f"{PACKAGE}.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{PACKAGE}.models.Pooling"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{PACKAGE}.models.Normalize"}
DENSE = {"idx": 3, "name": "3", "path": "3_Dense", "type": f"{PACKAGE}.base.modules.dense.Dense"}
TANH = "torch.nn.modules.activation.Tanh"
NORMALIZED = PoolingStep(kind="normalize")


def read(folder: Path, modules: object = (TRANSFORMER, POOLING), **files: object) -> SentenceFiles:
    """What is read of JSON files (`__` in a name is a folder), `mean` where nothing is said of pooling."""
    known = {"modules": modules, "1_Pooling__config": {"pooling_mode": "mean"}, **files}
    for name, content in known.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_sentence_files(folder)


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len"),
        ("pooling_mode_weightedmean_tokens", "weighted_mean"),
        ("pooling_mode_lasttoken", "last"),
    ],
)
def test_pooling_is_the_mode_whose_flag_is_on(tmp_path, key, mode):
    flags = {
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "word_embedding_dimension": 8,
    }
    found = read(tmp_path, [TRANSFORMER, POOLING, NORMALIZE], **{"1_Pooling__config": flags | {key: True}})
    assert found.pooling == PoolingSpec(modes=(mode,), steps=(NORMALIZED,), width=8)
    assert (found.reason, found.notes) == ("", ())


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": ["lasttoken"]}, ("last",)),
        ({"pooling_mode": "max", "pooling_mode_mean_tokens": True}, ("max",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({}, ("mean",)),
    ],
)
def test_several_modes_stand_in_sentence_transformers_order(tmp_path, config, modes):
    assert read(tmp_path, **{"1_Pooling__config": config}).pooling == PoolingSpec(modes=modes)


def test_steps_follow_in_any_order_and_dropout_is_none(tmp_path):
    (tmp_path / "3_Dense").mkdir()
    save_file({"any": torch.zeros(1)}, tmp_path / "3_Dense" / "model.safetensors")
    dropout = {"path": "4_Dropout", "type": f"{PACKAGE}.models.Dropout"}
    dense = {"in_features": 8, "out_features": 2, "bias": False, "activation_function": TANH}
    modules = [TRANSFORMER, POOLING, NORMALIZE, DENSE, dropout, NORMALIZE]
    found = read(tmp_path, modules, **{"3_Dense__config": dense})
    step = PoolingStep(kind="dense", inputs=8, width=2, bias=False, activation="Tanh", folder="3_Dense")
    assert found.pooling == PoolingSpec(steps=(NORMALIZED, step, NORMALIZED))


@pytest.mark.parametrize(
    ("modules", "files", "reason"),
    [
        (
            [TRANSFORMER, POOLING],
            {"1_Pooling__config": {"pooling_mode": "median"}},
            "1_Pooling pools by 'median'",
        ),
        ([TRANSFORMER, POOLING], {"1_Pooling__config": {"pooling_mode": []}}, "1_Pooling pools by"),
        ([TRANSFORMER, POOLING], {"1_Pooling__config": {"weights": 1}}, "1_Pooling has the field 'weights'"),
        ([TRANSFORMER, POOLING, POOLING | {"type": "mine.Dense"}], {}, "'mine.Dense' after the pooling"),
        (
            [TRANSFORMER, POOLING, POOLING | {"type": f"{PACKAGE}.models.CNN"}],
            {},
            "models.CNN' after the pooling",
        ),
        ([TRANSFORMER, NORMALIZE, POOLING], {}, "models.Normalize' before a Pooling"),
        (
            [TRANSFORMER, POOLING | {"type": f"{PACKAGE}.models.WeightedLayerPooling"}],
            {},
            "WeightedLayerPooling",
        ),
        ([TRANSFORMER], {}, "no Pooling after the Transformer"),
        ([POOLING | {"type": f"{PACKAGE}.models.CLIPModel"}], {}, "CLIPModel', not with a Transformer"),
        ([TRANSFORMER | {"type": "custom_st.Transformer"}, POOLING], {}, "'custom_st.Transformer'"),
        ([], {}, "begins with nothing"),
        ([TRANSFORMER, POOLING, DENSE], {}, "3_Dense has no config.json"),
        (
            [TRANSFORMER, POOLING, DENSE],
            {"3_Dense__config": {"in_features": 8, "out_features": 0}},
            "out_features 0",
        ),
        (
            [TRANSFORMER, POOLING, DENSE],
            {"3_Dense__config": {"in_features": 8, "out_features": 2}},
            "3_Dense needs weights in model.safetensors; it has none",
        ),
        (
            [TRANSFORMER, POOLING, DENSE],
            {"3_Dense__config": {"in_features": 8, "out_features": 2, "activation_function": "mine.Tanh"}},
            "activation 'mine.Tanh'",
        ),
        (
            [TRANSFORMER, POOLING, NORMALIZE],
            {"2_Normalize__config": {"module_input_name": "token_embeddings"}},
            "module_input_name 'token_embeddings'",
        ),
        ([TRANSFORMER, POOLING], {"sentence_bert_config": {"transformer_task": "fill-mask"}}, "'fill-mask'"),
        (
            [TRANSFORMER, POOLING],
            {"sentence_bert_config": {"config_args": {"is_causal": False}}},
            "'is_causal'",
        ),
        ([TRANSFORMER, POOLING], {"sentence_bert_config": {"pad_to": 8}}, "'pad_to'"),
        (
            [TRANSFORMER, POOLING],
            {"sentence_bert_config": {"modality_config": {"text": {}, "message": {}}}},
            "'modality_config'",
        ),
        (
            [TRANSFORMER, POOLING],
            {"config_sentence_transformers": {"default_prompt_name": "passage"}},
            "names the default prompt 'passage'",
        ),
        (
            [TRANSFORMER, POOLING],
            {"config_sentence_transformers": {"model_type": "SparseEncoder"}},
            "model_type 'SparseEncoder'",
        ),
    ],
)
def test_what_encode_would_do_and_this_server_does_not_is_the_reason_why_there_is_no_pooling(
    tmp_path, modules, files, reason
):
    found = read(tmp_path, modules, **files)
    assert found.pooling is None
    assert reason in found.reason
    assert found.notes == (f"pooled is not offered: {found.reason}",)


def test_a_dense_in_pickle_is_named_and_not_read(tmp_path):
    (tmp_path / "3_Dense").mkdir()
    (tmp_path / "3_Dense" / "pytorch_model.bin").write_bytes(b"")
    dense = {"in_features": 8, "out_features": 2}
    found = read(tmp_path, [TRANSFORMER, POOLING, DENSE], **{"3_Dense__config": dense})
    assert "3_Dense needs weights in model.safetensors; it has only pytorch_model.bin" in found.reason


def test_a_pooling_that_does_not_fit_the_model_is_not_offered(tmp_path):
    config = {"pooling_mode": "mean", "word_embedding_dimension": 7}
    found = read(tmp_path, **{"1_Pooling__config": config}).fitting(8)
    assert found.pooling is None
    assert found.reason == "its pooling is of 7 numbers a token, and the model has 8"


@pytest.mark.parametrize(
    "file",
    [
        f"sentence_{name}_config"
        for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
    ],
)
def test_where_texts_are_cut_is_read_under_every_name_the_file_had(tmp_path, file):
    found = read(tmp_path, **{file: {"max_seq_length": 12, "do_lower_case": True}})
    assert (found.cut_at, found.lower) == (12, True)
    assert found.cut_by == f"max_seq_length of {file}.json"


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path):
    modules = [TRANSFORMER | {"path": "0_Transformer"}, POOLING]
    found = read(tmp_path, modules, **{"0_Transformer__sentence_bert_config": {"max_seq_length": 12}})
    assert (found.home, found.cut_at) == ("0_Transformer", 12)


def test_prompts_and_where_vectors_are_cut_are_read(tmp_path):
    settings = {
        "prompts": {"query": "query: ", "plain": None},
        "default_prompt_name": "query",
        "truncate_dim": 8,
        "similarity_fn_name": "cosine",
        "anything": "else",
    }
    found = read(tmp_path, config_sentence_transformers=settings)
    assert (found.prompts, found.default_prompt) == ({"query": "query: ", "plain": ""}, "query")
    assert (found.truncate_dim, found.with_config({}).cut) == (8, True)


@pytest.mark.parametrize(
    ("config", "cut", "dimensions"),
    [
        ({}, False, ()),
        ({"is_matryoshka": True}, True, ()),
        ({"matryoshka_dimensions": [64, 8]}, True, (8, 64)),
        ({"is_matryoshka": False}, False, ()),
        ({"matryoshka_dimensions": ["8"]}, False, ()),
    ],
)
def test_vectors_may_be_cut_where_the_configuration_says_so(tmp_path, config, cut, dimensions):
    found = read(tmp_path).with_config(config)
    assert (found.cut, found.dimensions) == (cut, dimensions)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"sentence_bert_config": {"max_seq_length": "12"}}, "max_seq_length is '12'"),
        ({"sentence_bert_config": {"max_seq_length": 0}}, "max_seq_length is 0"),
        ({"sentence_bert_config": {"do_lower_case": 1}}, "do_lower_case is 1"),
        ({"config_sentence_transformers": {"truncate_dim": -1}}, "truncate_dim is -1"),
        ({"config_sentence_transformers": {"prompts": {"query": 1}}}, "prompts must be"),
        ({"config_sentence_transformers": {"prompts": ["query"]}}, "prompts must be"),
        ({"config_sentence_transformers": "{"}, "config_sentence_transformers.json is not JSON"),
    ],
)
def test_a_field_that_is_read_and_of_the_wrong_kind_is_named(tmp_path, files, named):
    with pytest.raises(SpecError, match=named):
        read(tmp_path, **files)


@pytest.mark.parametrize("path", ["../other", "/etc", "..", ".hidden", "a/b", 7, None])
def test_a_module_path_that_leads_elsewhere_is_refused(tmp_path, path):
    with pytest.raises(SpecError, match="path"):
        read(tmp_path, [TRANSFORMER, POOLING | {"path": path}])


@pytest.mark.parametrize("modules", [{}, [7], [{"path": ""}], '"text"'])
def test_modules_that_are_not_a_list_of_modules_are_refused(tmp_path, modules):
    with pytest.raises(SpecError, match=r"modules.json"):
        read(tmp_path, modules)


def test_a_folder_without_modules_says_so_only_when_it_is_asked(tmp_path):
    assert "no modules.json" in read_sentence_files(tmp_path).reason
    assert read_sentence_files(tmp_path).notes == ()


def test_the_configuration_is_read_in_the_folder_of_the_transformer(tmp_path):
    home = tmp_path / "0_Transformer"
    home.mkdir()
    bert = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    (home / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 10, **bert}))
    save_file({"any": torch.zeros(1)}, home / "model.safetensors")
    read(tmp_path, [TRANSFORMER | {"path": "0_Transformer"}, POOLING])
    found = read_spec(tmp_path)
    assert (found.folder, found.weights.parent, found.spec.pooling) == (home, home, PoolingSpec())
