"""Head sets, `mixed` and `share` against those who compute the same from whole matrices."""

from pathlib import Path

import numpy as np
import torch

from tests.peers.conftest import TOLERANCE, Asked, distance
from tests.peers.formulas import focus_score, icr_documents, lookback_ratios
from tests.peers.models import eager
from tests.peers.questions import ANSWER, ANSWER_ROWS, DOCUMENTS, ESM_IDS, INSTRUCTION, LONG_IDS, QUESTION

GIVEN = (DOCUMENTS[0][0], DOCUMENTS[-1][1])
IMPORTANT = [(3, 1), (0, 2), (2, 0), (3, 3)]
ALL = [[layer, head] for layer in range(4) for head in range(4)]


def test_at2s_estimator_is_a_weighted_set_of_heads(at2: dict[str, np.ndarray], asked: Asked) -> None:
    heads = {"pairs": ALL, "weights": at2["theta"].tolist()}
    ours = asked.one("qwen2", LONG_IDS[:-1], "mixed", heads=heads, rows=ANSWER_ROWS)["mixed"]
    assert distance(ours, at2["scores"]) <= TOLERANCE


def test_at2s_score_of_a_source_is_a_column(at2: dict[str, np.ndarray], asked: Asked) -> None:
    heads = {"pairs": ALL, "weights": at2["theta"].tolist()}
    ours = asked.one(
        "qwen2",
        LONG_IDS[:-1],
        "mixed",
        heads=heads,
        rows=ANSWER_ROWS,
        columns=[list(one) for one in DOCUMENTS],
    )["mixed"]
    right = np.stack([at2["scores"][:, start:end].sum(-1) for start, end in DOCUMENTS], axis=-1)
    assert distance(ours, right) <= TOLERANCE


def test_icr_is_one_number_a_document_where_columns_and_rows_are_named(
    whole_attention: np.ndarray, asked: Asked
) -> None:
    names = {f"document {at}": list(one) for at, one in enumerate(DOCUMENTS)}
    (found,) = asked.many(
        "qwen2",
        [{"token_ids": LONG_IDS, "spans": {**names, "question": list(QUESTION)}}],
        outputs=["mixed"],
        heads=ALL,
        rows=["question"],
        columns=list(names),
        reduce="mean",
    )
    assert distance(found["mixed"], icr_documents(whole_attention, QUESTION, DOCUMENTS)) <= TOLERANCE


def test_share_is_attention_trackers_focus(whole_attention: np.ndarray, asked: Asked) -> None:
    ours = asked.one(
        "qwen2",
        LONG_IDS,
        "share",
        heads=[list(one) for one in IMPORTANT],
        rows=[-1],
        share={"of": list(INSTRUCTION), "over": [list(INSTRUCTION), list(GIVEN)]},
    )["share"]
    right = focus_score(whole_attention, IMPORTANT, INSTRUCTION, GIVEN)
    assert ours.shape == (len(IMPORTANT), 1)
    assert abs(ours.mean() - right) <= TOLERANCE * right


def test_lookback_lens_follows_from_share_and_the_number_of_tokens(
    whole_attention: np.ndarray, asked: Asked
) -> None:
    """Its masses are means over tokens, ours sums: the numbers of tokens turn one into the other."""
    context = ANSWER[0]
    share = asked.one(
        "qwen2",
        LONG_IDS,
        "share",
        layers="all",
        rows={"start": context, "stop": len(LONG_IDS)},
        share={"of": [0, context], "over": [0, len(LONG_IDS)]},
    )["share"]
    since = np.arange(1, len(LONG_IDS) - context + 1)
    before = share / context
    assert (
        distance(before / (before + (1 - share) / since), lookback_ratios(whole_attention, context))
        <= TOLERANCE
    )


def test_at2s_own_file_becomes_a_set(at2: dict[str, np.ndarray], small_models: Path, asked: Asked) -> None:
    asked.import_heads(small_models.parent / "score_estimator.pt", small_models / "qwen2")
    ours = asked.one("qwen2", LONG_IDS[:-1], "mixed", heads="at2", rows=ANSWER_ROWS)["mixed"]
    assert distance(ours, at2["scores"]) <= TOLERANCE


def test_esms_contact_head_becomes_a_set_that_predicts_contacts(small_models: Path, asked: Asked) -> None:
    asked.import_heads(small_models / "esm" / "model.safetensors", small_models / "esm")
    ids = torch.tensor([ESM_IDS])
    with torch.no_grad():
        model = eager("EsmForMaskedLM", small_models / "esm")
        right = model.esm.predict_contacts(ids, torch.ones_like(ids))[0].numpy()
    ours = asked.one("esm", ESM_IDS, "mixed", heads="contacts")["mixed"]
    assert distance(ours, right) <= TOLERANCE
