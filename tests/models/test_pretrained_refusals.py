"""What cannot be run through transformers' code is refused in words, and takes nothing else along."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models.errors import SpecError
from models.folders.families import read_folder
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from tests.tiny_architectures import tiny
from tests.transformers_models import FOREIGN

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def spectrograms() -> Any:
    """Return a model of sound as an image."""
    config = transformers.ASTConfig(
        **SIZES, patch_size=4, max_length=20, num_mel_bins=8, frequency_stride=4, time_stride=4
    )
    return transformers.ASTModel(config)


def image_to_text() -> Any:
    """Return an image encoder with a decoder of text, as TrOCR and Donut are."""
    decoder = transformers.BertConfig(vocab_size=50, **SIZES, is_decoder=True, add_cross_attention=True)
    return transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(transformers.ViTConfig(**SIZES, image_size=16, patch_size=4)),
        decoder=transformers.BertLMHeadModel(decoder),
    )


# How each is made, and what its reason says.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "audio-spectrogram-transformer": (spectrograms, "reads input_values"),
    "vision-encoder-decoder": (image_to_text, "image encoder with a decoder"),
    "fsmt": (lambda: tiny("fsmt"), "no table of words"),
    "focalnet": (lambda: tiny("focalnet"), "hidden_size"),
    "idefics3_vision": (lambda: tiny("idefics3_vision"), "Idefics3Vision"),
    "smolvlm_vision": (lambda: tiny("smolvlm_vision"), "SmolVLMVision"),
    "qwen2_5_vl_vision": (lambda: tiny("qwen2_5_vl_vision"), "Qwen2_5_VLVision|Qwen2_5_VisionTransformer"),
    "granite_docling_vision": (lambda: tiny("granite_docling_vision"), "GraniteDoclingVision"),
    "whisper": (lambda: tiny("whisper"), "reads input_features"),
    "wav2vec2": (lambda: tiny("wav2vec2"), "reads input_values"),
    "dinov3_vit": (lambda: tiny("dinov3_vit"), "cannot be run on embeddings alone"),
    "opt-of-two-widths": (
        lambda: tiny("opt", changes={"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
        "only models of .T, d_model. are served",
    ),
    "clip": (lambda: tiny("clip"), "pixel_values|table of words"),
}


def test_a_folder_of_every_kind_that_cannot_be_run_has_a_reason_and_the_good_one_is_served(
    tmp_path: Path,
) -> None:
    tiny("modernbert", changes=FOREIGN).save_pretrained(tmp_path / "good")
    for name, (make, _) in REFUSED.items():
        make().save_pretrained(tmp_path / name)
    runtime = TorchRuntime(tmp_path, models=None, device="cpu", dtype="float32")
    assert [card.name for card in runtime.cards()] == ["good"]
    reasons = {row["name"]: row["reason"] for row in runtime.index()}
    for name, (_, words) in REFUSED.items():
        with pytest.raises(SpecError, match=words):
            runtime.load(name)
        assert reasons[name]
    card = runtime.card("good")
    given = Tokens(ids=torch.arange(3, 9).numpy())
    item = Item(card=card, input=given, selection=Selection(outputs=("weights",), layers=(0,)))
    assert isinstance(runtime.run([item]).answers[0], Answer)


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "name",
    ["layers.1.attn.distance_embedding.weight", "model.layers.0.mlp.gate.weight", "embeddings.more.weight"],
)
def test_a_tensor_that_nothing_reads_refuses_the_folder_by_its_name(name, tmp_path) -> None:
    tiny("modernbert", changes=FOREIGN).save_pretrained(tmp_path / "model")
    changed(tmp_path / "model", lambda tensors: tensors.update({name: torch.ones(7, 8)}))
    with pytest.raises(SpecError, match="does not read 1 tensors") as refusal:
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    assert name in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lm_head.weight", (60, 32)),
        ("cls.predictions.bias", (60,)),
        ("score.weight", (2, 32)),
        ("embeddings.position_ids", (1, 64)),
        ("layers.0.attn.rotary_emb.inv_freq", (4,)),
        ("layers.0.attn.bias", (1, 1, 64, 64)),
        ("layers.0.attn.masked_bias", ()),
    ],
)
def test_a_head_and_what_is_computed_anew_may_go_unread(name, shape, tmp_path) -> None:
    tiny("modernbert", changes=FOREIGN).save_pretrained(tmp_path / "model")
    changed(tmp_path / "model", lambda tensors: tensors.update({name: torch.ones(shape)}))
    runtime = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    assert [card.name for card in runtime.cards()] == ["model"]


def test_a_bias_of_attention_is_no_causal_mask(tmp_path: Path) -> None:
    tiny("modernbert", changes=FOREIGN).save_pretrained(tmp_path / "model")
    changed(tmp_path / "model", lambda tensors: tensors.update({"layers.0.attn.bias": torch.ones(32)}))
    with pytest.raises(SpecError, match=r"layers\.0\.attn\.bias"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")


HEADS = [
    ("modernbert", "ModernBertForMaskedLM"),
    ("modernbert", "ModernBertForSequenceClassification"),
    ("albert", "AlbertForPreTraining"),
    ("t5", "T5EncoderModel"),
    ("t5", "T5ForConditionalGeneration"),
    ("bart", "BartForSequenceClassification"),
    ("data2vec-text", "Data2VecTextForQuestionAnswering"),
    ("vit", "ViTForImageClassification"),
    ("xlm-roberta-xl", "XLMRobertaXLForMaskedLM"),
    ("qwen3_moe", "Qwen3MoeForCausalLM"),
    ("nomic_bert", "NomicBertForMaskedLM"),
    ("eurobert", "EuroBertForSequenceClassification"),
]


@pytest.mark.parametrize(("model_type", "cls_name"), HEADS)
def test_a_folder_with_any_head_of_transformers_is_served_without_it(model_type, cls_name, tmp_path) -> None:
    tiny(model_type, cls_name=cls_name, changes=FOREIGN).save_pretrained(tmp_path / "model")
    card = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32").card("model")
    assert card.kernel.startswith("transformers")


CODE = {"AutoConfig": "configuration_mine.Config", "AutoModel": "modeling_mine.Model"}


@pytest.mark.parametrize("model_type", ["nomic_bert", "phi3", "deepseek_v3", "modernbert", "bert"])
def test_code_beside_an_architecture_that_is_known_is_not_run_and_noted(model_type, tmp_path) -> None:
    folder = tmp_path / "model"
    tiny(model_type).save_pretrained(folder)
    ran = tmp_path / "ran"
    for name in ("configuration_mine.py", "modeling_mine.py"):
        (folder / name).write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": CODE}))
    runtime = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    assert runtime.card("model").layers == 2
    assert any("auto_map" in note for note in read_folder(folder).notes)
    assert not ran.exists()


def test_an_architecture_that_only_code_of_the_folder_describes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny("modernbert", changes=FOREIGN).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": CODE, "model_type": "mine"}))
    with pytest.raises(SpecError, match=r"auto_map.*never run"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")


def test_positions_of_a_kind_that_transformers_no_longer_knows_are_refused(tmp_path: Path) -> None:
    """Its own oracle would not show it: the same code runs there."""
    folder = tmp_path / "model"
    tiny("albert", changes=FOREIGN).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"position_embedding_type": "relative_key"}))
    with pytest.raises(SpecError, match="position_embedding_type is 'relative_key'"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
