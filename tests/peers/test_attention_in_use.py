"""What others compute of attention: from transformers' eager attention, and from our replies."""

from pathlib import Path

import numpy as np
import torch

import heed_client
from tests.peers.conftest import TOLERANCE, Asked, distance
from tests.peers.formulas import icr_documents
from tests.peers.models import eager
from tests.peers.questions import ANSWER_ROWS, DOCUMENTS, ESM_IDS, LONG_IDS, QUESTION

NEW = 10  # tokens that are generated


def test_rows_of_the_answer_are_what_at2_reads(at2: dict[str, np.ndarray], asked: Asked) -> None:
    ours = asked.one("qwen2", LONG_IDS[:-1], "weights", layers="all", rows=ANSWER_ROWS)["weights"]
    features = ours.transpose(2, 3, 0, 1).reshape(at2["features"].shape)
    assert distance(features, at2["features"]) <= TOLERANCE
    assert distance(features @ at2["theta"], at2["scores"]) <= TOLERANCE


def test_icr_is_what_documents_receive_of_the_question(whole_attention: np.ndarray, asked: Asked) -> None:
    rows = {"start": QUESTION[0], "stop": QUESTION[1]}
    ours = asked.one("qwen2", LONG_IDS, "received", layers="all", rows=rows)["received"].sum((0, 1))
    found = [ours[start:end].sum() / (QUESTION[1] - QUESTION[0]) for start, end in DOCUMENTS]
    assert distance(found, icr_documents(whole_attention, QUESTION, DOCUMENTS)) <= TOLERANCE


def test_one_replayed_pass_gives_the_attention_of_every_generated_step(
    small_models: Path, asked: Asked
) -> None:
    model = eager("LlamaForCausalLM", small_models / "llama")
    with torch.no_grad():
        made = model.generate(
            torch.tensor([LONG_IDS]),
            max_new_tokens=NEW,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
            eos_token_id=None,
        )
    answer = made.sequences[0].tolist()[len(LONG_IDS) :]
    with heed_client.Client(asked.url) as client:
        replay = client.replay("llama", LONG_IDS, answer)
    assert len(made.attentions) == NEW == len(answer)
    for number, step in enumerate(made.attentions):
        right = torch.stack([one[0, :, -1] for one in step]).numpy()
        assert distance(replay.step(number), right) <= TOLERANCE


def test_esms_contacts_follow_from_our_weights(small_models: Path, asked: Asked) -> None:
    model = eager("EsmForMaskedLM", small_models / "esm")
    ours = asked.one("esm", ESM_IDS, "weights", layers="all")["weights"]
    ids = torch.tensor([ESM_IDS])
    with torch.no_grad():
        right = model.esm.predict_contacts(ids, torch.ones_like(ids))[0].numpy()
        found = model.esm.contact_head(ids, torch.tensor(ours, dtype=torch.float32)[None])[0].numpy()
    assert distance(found, right) <= TOLERANCE
