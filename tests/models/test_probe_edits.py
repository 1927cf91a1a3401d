"""Which edits a model run by transformers can have: what the probe has shown, and why not the rest."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.edit import VERBS
from models.errors import SpecError
from models.loading import build
from models.pretrained.probe_edits import EditProbe
from tests.native_families import GROUPED, SIZES
from tests.transformers_models import FOREIGN, save_random

T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def cards(folder: Path, model_type: str, changes: dict[str, Any], name: str) -> list[Any]:
    save_random(model_type, changes, name, folder / "model")
    return build("model", "1", folder / "model", dtype="float32", device=torch.device("cpu"))


def test_every_attention_of_an_encoder_decoder_model_has_all_that_needs_no_other(tmp_path: Path) -> None:
    made = cards(tmp_path, "t5", T5 | {"decoder_start_token_id": 0}, "T5Model")
    assert [card.name for card in made] == ["model", "model.decoder", "model.cross"]
    for card in made:
        assert card.edits == tuple(verb for verb in VERBS if verb != "from")
        assert "side by side" in card.not_offered["edits.from"]


def test_a_verb_that_comes_out_otherwise_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EditProbe._run

    def run(self: EditProbe, sample: Any, second: Any, edits: Any) -> torch.Tensor:
        """Let `block` do nothing, as where a model goes around the scores that edits are of."""
        return whole(self, sample, second, [one for one in edits if one.verb != "block"])

    monkeypatch.setattr(EditProbe, "_run", run)
    (card,) = cards(tmp_path, "llama", GROUPED | FOREIGN, "LlamaModel")
    assert card.edits == tuple(verb for verb in VERBS if verb != "block")
    assert "away from eager attention" in card.not_offered["edits.block"]


def test_without_an_eager_form_there_is_nothing_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise SpecError("its attention has no eager form that edits could be compared with")

    monkeypatch.setattr(EditProbe, "_eager", none)
    (card,) = cards(tmp_path, "bert", SIZES | FOREIGN, "BertModel")
    assert card.edits == ()
    assert set(card.not_offered) >= {f"edits.{verb}" for verb in VERBS}
