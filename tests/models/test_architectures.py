"""A fixed sample of transformers' architectures, each agreeing with eager attention or refused in words.

All of them: `python -m tests.tiny_architectures FOLDER`.
"""

from collections.abc import Iterator

import pytest
import torch

from tests.tiny_architectures import verdict

SERVED = {
    "packed": (
        "apertus biogpt cohere cohere2 deepseek_v3 ernie eurobert exaone4 glm4 gpt_oss granite "
        "nomic_bert olmo olmo2 qwen2_moe qwen3_moe smollm3 starcoder2"
    ),
    "by length": (
        "bart blenderbot clip_text_model data2vec-text esm llama4_text m2m_100 marian mt5 pegasus "
        "switch_transformers t5 t5gemma umt5 vit xlm-roberta-xl"
    ),
}
# Part of the reason that is given.
REFUSED = {
    "bloom": "goes around the registered attention function",
    "deberta-v2": "goes around the registered attention function",
    "xlnet": "goes around the registered attention function",
    "rembert": "goes around the registered attention function",
    "mamba": "called it 0 times",
    "deepseek_v4": "only models of [T, d_model] are served",
    "falcon": "goes around the registered attention function",
    "mvp": "goes around the registered attention function",
    "hubert": "reads input_values",
    "speech_to_text": "reads input_features",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("model_type", "batched"), [(name, how) for how, names in SERVED.items() for name in names.split()]
)
def test_it_agrees_with_eager_attention_to_the_last_position(model_type, batched, tmp_path) -> None:
    word, about = verdict(model_type, tmp_path)
    assert word == "agrees", about
    assert f"transformers, {batched}" in about


@pytest.mark.parametrize(("model_type", "reason"), REFUSED.items())
def test_it_is_refused_in_words(model_type, reason, tmp_path) -> None:
    word, about = verdict(model_type, tmp_path)
    assert word == "refused", about
    assert reason in about
