"""AT2, unmodified, on a Qwen2: the attention it reads, and the scores that its linear estimator makes of it.

    python -m tests.peers.citations REPOSITORY OUT.npz

Runs where AT2 is installed. `features` [answer, S, L · H], `theta` [L · H], `scores` [answer, S]; and beside
OUT.npz the estimator as AT2 saves it, `score_estimator.pt`.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.peers.questions import ANSWER, LONG_IDS


def only_what_computes() -> None:
    """Let AT2's modules be imported without its packages' `__init__`, which want spaCy to split sentences.

    All that the two modules need of `at2.tasks` is the name of a type.
    """
    found = importlib.util.find_spec("at2")
    assert found is not None
    assert found.submodule_search_locations is not None
    (folder,) = found.submodule_search_locations
    for name in ("at2", "at2.attribution", "at2.tasks"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(folder, *name.split(".")[1:]))]
        sys.modules[name] = module
    sys.modules["at2.tasks"].AttributionTask = object  # type: ignore[attr-defined]


def main(repository: Path, out: Path) -> None:
    """Write features and scores."""
    only_what_computes()
    from at2.attribution.features import AttentionFeatureExtractor
    from at2.attribution.score_estimators import LinearScoreEstimator

    model = transformers.Qwen2ForCausalLM.from_pretrained(repository / "qwen2").eval()
    config = model.config
    extractor = AttentionFeatureExtractor(config.num_hidden_layers, config.num_attention_heads, "qwen2")
    estimator = LinearScoreEstimator(extractor)
    torch.manual_seed(1)
    estimator.linear.weight.data.normal_()
    estimator.finalize_parameters()
    with torch.no_grad():  # what the last token attends to nobody asks: as AT2's own tasks run the model
        states = model(torch.tensor([LONG_IDS[:-1]]), output_hidden_states=True).hidden_states
        task = types.SimpleNamespace(model=model, hidden_states=states)
        features = extractor(task, *ANSWER)
        scores = estimator.get_scores(task, *ANSWER)
    estimator.save(out.parent / "score_estimator.pt")
    theta = estimator.linear.weight.data[0]
    np.savez(out, features=features.numpy(), theta=theta.numpy(), scores=scores.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
