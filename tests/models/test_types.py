"""Token types are within the model's own table, whoever says them: the caller or a tokenizer's file."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from models.cards import within_types
from models.errors import TextError
from models.outputs import Selection
from models.protocol import Answer, Item, ModelCard, Text, Tokens
from models.runtime import TorchRuntime
from service.errors import Invalid
from service.http.resolve import resolve_attend
from service.http.schemas import AttendRequest
from service.http.texts.reading import Reading
from tests.fakes import fake_card
from tests.transformers_models import save_random

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "the", "bank", "river"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
ROBERTA = ("roberta", "RobertaModel")
BERT = ("bert", "BertModel")
BIG_BIRD = ("roberta-prelayernorm", "RobertaPreLayerNormModel")  # through transformers


def runtime(folder: Path, family: tuple[str, str], *, rows: int, second: int) -> TorchRuntime:
    """Serve one model with `rows` types and a tokenizer that gives the second of two texts type `second`."""
    save_random(family[0], {**SIZES, "type_vocab_size": rows}, family[1], folder / "m")
    tokenizer = tokenizers.Tokenizer(WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair=f"<s> $A </s> </s>:{second} $B:{second} </s>:{second}",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.save(str(folder / "m" / "tokenizer.json"))
    return TorchRuntime(folder, models=None, device="cpu", dtype="float32")


def hidden(one: TorchRuntime, card: ModelCard, *given: Tokens) -> list[np.ndarray]:
    chosen = Selection(outputs=("hidden",), layers=(card.layers - 1,))
    answers = one.run([Item(card=card, input=tokens, selection=chosen) for tokens in given]).answers
    assert all(isinstance(answer, Answer) for answer in answers), answers
    return [answer.tensors["hidden"] for answer in answers]


@pytest.mark.parametrize("family", [ROBERTA, BIG_BIRD])
def test_model_of_one_type_answers_a_pair_whatever_its_tokenizer_says(
    tmp_path: Path, family: tuple[str, str]
) -> None:
    one = runtime(tmp_path, family, rows=1, second=1)
    card = one.card("m")
    assert card.types == 1
    pair = one.tokenize(card, "the bank", "the river")
    assert not pair.type_ids.any()
    alone = Tokens(ids=pair.ids)
    with_types = Tokens(ids=pair.ids, type_ids=pair.type_ids)
    first, second = hidden(one, card, alone, with_types)
    assert np.array_equal(first, second)


def test_pair_beyond_the_table_of_types_is_refused_by_its_index(tmp_path: Path) -> None:
    one = runtime(tmp_path, BERT, rows=2, second=2)  # RoBERTa's tokenizers give no types at all
    card = one.card("m")
    inputs = [{"text": "the"}, {"text": "bank"}, {"text": "the", "pair": "river"}]
    with pytest.raises(Invalid, match=r"inputs\[2\]: the tokenizer gives a token type 2; model m has types"):
        resolve_attend(AttendRequest.model_validate({"inputs": inputs}), runtime=one, how=Reading(card=card))


@pytest.mark.parametrize("family", [BERT, BIG_BIRD])
def test_types_that_a_caller_gives_are_what_transformers_makes_of_them(
    tmp_path: Path, family: tuple[str, str]
) -> None:
    one = runtime(tmp_path, family, rows=3, second=1)
    card = one.card("m")
    assert card.types == 3
    ids, types = np.array([0, 4, 5, 2, 6, 2]), np.array([0, 0, 1, 1, 2, 2])
    model = save_random(family[0], {**SIZES, "type_vocab_size": 3}, family[1], tmp_path / "again")
    with torch.inference_mode():
        expected = model(
            input_ids=torch.from_numpy(ids)[None], token_type_ids=torch.from_numpy(types)[None]
        ).last_hidden_state[0]
    beside = Tokens(ids=ids[:3])
    with_types, _, plain = hidden(one, card, Tokens(ids=ids, type_ids=types), beside, Tokens(ids=ids))
    assert np.abs(with_types - expected.numpy()).max() <= 1e-5
    assert np.abs(with_types - plain).max() > 0.01


def test_types_of_a_text_are_left_alone_where_the_model_has_them() -> None:
    ids = np.array([0, 1, 1])
    text = Text(ids=ids, type_ids=ids, tokens=("a",) * 3, offsets=((0, 1),) * 3, special=(False,) * 3)
    assert within_types(text, fake_card(types=2)) is text
    assert within_types(text, fake_card(types=0)).type_ids.tolist() == [0, 0, 0]
    with pytest.raises(TextError, match="types from 0 to 1"):
        within_types(
            Text(**{**{n: getattr(text, n) for n in Text.__slots__}, "type_ids": 2 * ids}), fake_card(types=2)
        )
