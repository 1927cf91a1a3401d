"""Ids stay ids: models that do more with them than to look them up, through transformers' code."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.outputs import Selection
from models.protocol import Answer, Failure, Item, ModelCard, Tokens
from models.runtime import TorchRuntime
from tests.tiny_architectures import agreement, away, eager, tiny

TOLERANCE = 1e-5
ESM_2 = {"token_dropout": True, "position_embedding_type": "rotary", "mask_token_id": 5}
ESM_1B = {
    "token_dropout": True,
    "position_embedding_type": "absolute",
    "emb_layer_norm_before": True,
    "mask_token_id": 5,
}
SCALED = {"scale_embedding": True}
NO_AFFINE = {"layer_norm_elementwise_affine": False}  # so that OPT runs through transformers

# model_type, changes, the class that saves it, whether embeddings are taken, positions
CASES = {
    "ESM-2": ("esm", ESM_2, "EsmModel", False, 64),
    "ESM-1b, with a head": ("esm", ESM_1B, "EsmForMaskedLM", False, 62),
    "Marian": ("marian", SCALED, "MarianModel", False, 64),
    "Marian, with a head": ("marian", SCALED, "MarianMTModel", False, 64),
    "Pegasus": ("pegasus", SCALED, "PegasusForConditionalGeneration", False, 64),
    "CLIP's text tower": ("clip_text_model", {}, "CLIPTextModel", False, 64),
    "SigLIP's text tower": ("siglip_text_model", {}, "SiglipTextModel", False, 64),
    "data2vec": ("data2vec-text", {}, "Data2VecTextModel", True, 62),
    "XLM-R-XL": ("xlm-roberta-xl", {}, "XLMRobertaXLModel", True, 62),
    "BioGPT": ("biogpt", {}, "BioGptModel", True, 64),
    "BART": ("bart", {}, "BartModel", True, 64),
    "OPT": ("opt", NO_AFFINE, "OPTModel", True, 64),
    "GPT-2, with a head": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "GPT2LMHeadModel", True, 64),
    "CTRL, with a head": ("ctrl", {}, "CTRLLMHeadModel", True, 64),
}
MASKED = [name for name in CASES if name not in ("Marian, with a head", "ESM-1b, with a head")]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Case:
    """One architecture: the same weights in transformers, eager and bare, and served from its folder."""

    def __init__(self, name: str, repository: Path) -> None:
        model_type, changes, cls_name, self.takes_embeddings, self.positions = CASES[name]
        saved = tiny(model_type, changes=changes, cls_name=cls_name)
        saved.save_pretrained(repository / "model")
        self.eager = saved if saved.config.is_encoder_decoder else saved.base_model
        if saved.config.is_encoder_decoder and hasattr(saved, "model"):
            self.eager = saved.model
        self.runtime = TorchRuntime(repository, models=("model",), device="cpu", dtype="float32")

    def run(self, card: ModelCard, *inputs: Tokens) -> list[Answer | Failure]:
        chosen = Selection(outputs=("weights", "hidden"), layers=tuple(range(card.layers)), layer_axis=True)
        return self.runtime.run([Item(card=card, input=one, selection=chosen) for one in inputs]).answers

    def hidden(self, card: ModelCard, *inputs: Tokens) -> list[np.ndarray]:
        answers = self.run(card, *inputs)
        assert all(isinstance(answer, Answer) for answer in answers), answers
        return [answer.tensors["hidden"] for answer in answers if isinstance(answer, Answer)]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return {name: Case(name, tmp_path_factory.mktemp("repository")) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_eager_on_any_ids_alone_and_in_a_ragged_batch_of_eight(name, cases) -> None:
    """Ids are drawn from all words, padding and mask tokens among them; one sequence is as long as may be."""
    case = cases[name]
    for card in case.runtime.cards():
        worst, _ = agreement(case.runtime, card, case.eager)
        assert worst <= TOLERANCE, card.name


@pytest.mark.parametrize("name", CASES)
def test_the_card_says_what_it_takes_and_how_many_positions_there_are(name, cases) -> None:
    case = cases[name]
    card = case.runtime.card("model")
    assert ("embeddings" in card.inputs) == case.takes_embeddings
    assert "token_ids" in card.inputs
    assert card.max_tokens == case.positions


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case[3]])
def test_embeddings_are_refused_alone_where_ids_are_more_than_rows_of_a_table(name, cases) -> None:
    case = cases[name]
    card = case.runtime.card("model")
    rows = np.zeros((4, card.width), np.float32)
    refused, answered = case.run(card, Tokens(embeddings=rows), Tokens(ids=np.array([3, 9, 4])))
    assert isinstance(refused, Failure)
    assert "token_ids" in refused.message
    assert isinstance(answered, Answer)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[3]])
def test_ids_and_embeddings_may_stand_in_one_batch(name, cases) -> None:
    case = cases[name]
    for card in case.runtime.cards():
        memory = np.ones((3, card.d_model), np.float32) if card.part else None
        ids, others = np.array([7, 9, 4, 30, 6]), np.array([8, 11, 40])
        rows = card.handle.model.table(torch.from_numpy(ids)[None])[0].numpy()
        given = Tokens(embeddings=rows, memory=memory), Tokens(ids=others, memory=memory)
        as_rows, beside = case.hidden(card, *given)
        (as_ids,) = case.hidden(card, Tokens(ids=ids, memory=memory))
        assert away(as_rows, as_ids) <= TOLERANCE
        assert away(beside, case.hidden(card, given[1])[0]) <= TOLERANCE


@pytest.mark.parametrize("name", MASKED)
def test_padding_on_the_left_and_gaps_in_the_mask_are_as_eager_has_them(name, cases) -> None:
    case = cases[name]
    card = case.runtime.card("model")
    chance = np.random.default_rng(5)
    ids = chance.integers(6, 60, 14)
    left, gap = np.ones(14, np.bool_), np.ones(14, np.bool_)
    left[:3], gap[4:6] = False, False
    ids_left = np.where(left, ids, 1)
    others = Tokens(ids=chance.integers(6, 60, 14)), Tokens(ids=chance.integers(6, 60, 5))
    for given, mask in ((ids_left, left), (ids, gap), (ids_left, left & gap)):
        one = Tokens(ids=given, mask=mask)
        right = eager(case.eager, Tokens(ids=given), "", mask)["hidden"]
        for found in (case.hidden(card, one)[0], case.hidden(card, others[0], one, *others)[1]):
            assert away(found[:, mask], right[:, mask]) <= TOLERANCE


def test_a_token_of_a_type_that_the_model_has_no_row_for_is_refused_alone(cases) -> None:
    case = cases["data2vec"]
    card = case.runtime.card("model")
    ids = np.array([3, 9, 4])
    good, bad = np.array([0, 1, 1]), np.array([0, 2, 0])
    answered, refused = case.run(card, Tokens(ids=ids, type_ids=good), Tokens(ids=ids, type_ids=bad))
    assert isinstance(answered, Answer)
    assert isinstance(refused, Failure)
    assert "type 2" in refused.message
