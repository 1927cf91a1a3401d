"""Words that rows predict: eager logits, layer by layer; bits, blocks, memory, and who has none."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from models.compiled import native
from models.device.steps import finish
from models.encoder.embedding import Table
from models.errors import SpecError
from models.loading import loaded
from models.outputs import Selection
from models.pooling_spec import PredictionSpec
from models.predictions import table as table_module
from models.predictions.likeliest import likeliest
from models.predictions.table import WordTable
from models.pretrained.tower import Tower
from models.protocol import Answer, Failure, Item, Tokens
from models.runtime import TorchRuntime
from models.training import corpus, grammar
from models.training.plan import Plan
from models.training.train import train
from tests.compiled import random
from tests.native_families import CASES, FIRST_WORD, GROUPED, SIZES, WORDS
from tests.transformers_models import FOREIGN, save_random

TOLERANCE = 1e-5  # of the largest number
K = 7
OUTPUTS = ("next_ids", "next_logprobs", "logprobs")
LENGTHS = (20, 1, 33, 7)

# The class that has what words are predicted by, and the norm after the last block, where there is one.
CLASSES: dict[str, tuple[str, str | None]] = {
    "gpt2": ("GPT2LMHeadModel", "ln_f"),
    "llama": ("LlamaForCausalLM", "norm"),
    "mistral": ("MistralForCausalLM", "norm"),
    "phi3": ("Phi3ForCausalLM", "norm"),
    "qwen3": ("Qwen3ForCausalLM", "norm"),
    "gemma": ("GemmaForCausalLM", "norm"),
    "gemma2": ("Gemma2ForCausalLM", "norm"),
    "gemma3": ("Gemma3ForCausalLM", "norm"),
    "gpt_neox": ("GPTNeoXForCausalLM", "final_layer_norm"),
    "opt": ("OPTForCausalLM", "decoder.final_layer_norm"),
    "bert": ("BertForMaskedLM", None),
    "bert, causal": ("BertLMHeadModel", None),
    "roberta": ("RobertaForMaskedLM", None),
    "distilbert": ("DistilBertForMaskedLM", None),
    "albert": ("AlbertForMaskedLM", None),
    "electra": ("ElectraForMaskedLM", None),
    "mpnet": ("MPNetForMaskedLM", None),
    "modernbert": ("ModernBertForMaskedLM", "final_norm"),
}
ESM = SIZES | {"position_embedding_type": "rotary", "mask_token_id": 3, "token_dropout": True}
CHANGES = {"gemma3": {"final_logit_softcapping": 5.0}, "gemma2": {"final_logit_softcapping": 9.0}}


def saved(case: str, folder: Path, **changes: Any) -> Any:
    model_type, sizes = CASES[case]
    return save_random(model_type, sizes | CHANGES.get(case, {}) | changes, CLASSES[case][0], folder)


def serve(folder: Path, *, predictions: bool = True, dtype: str = "float32") -> TorchRuntime:
    return TorchRuntime(
        folder.parent, models=(folder.name,), device="cpu", dtype=dtype, predictions=predictions
    )


def item(runtime: TorchRuntime, ids: np.ndarray, name: str = "model", **chosen: Any) -> Item:
    card = runtime.card(name)
    every = {"outputs": OUTPUTS, "layers": tuple(range(card.layers)), "layer_axis": True, "top_k": K}
    return Item(card=card, input=Tokens(ids=ids), selection=Selection(**{**every, **chosen}))


def run(runtime: TorchRuntime, *items: Item) -> list[dict[str, np.ndarray]]:
    answers = runtime.run(items).answers
    assert all(isinstance(answer, Answer) for answer in answers)
    return [answer.tensors for answer in answers if isinstance(answer, Answer)]


def some_ids(length: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(FIRST_WORD, WORDS, length)


def eager(model: Any, ids: np.ndarray, final: str | None) -> np.ndarray:
    """Return log-probabilities [L, T, V]: what the model's own head makes of every layer, after its norm."""
    given = torch.from_numpy(ids)[None]
    base = model.base_model
    with torch.inference_mode():
        out = base(input_ids=given, output_hidden_states=True, use_cache=False)
        norm = base.get_submodule(final) if final else lambda x: x
        states = [*map(norm, out.hidden_states[1:-1]), out.last_hidden_state]
        stack = base.decoder if hasattr(base, "decoder") else base  # which OPT's head calls directly
        whole = stack.forward
        made = []
        for state in states:
            stack.forward = lambda *_, state=state, **__: BaseModelOutputWithPastAndCrossAttentions(
                last_hidden_state=state
            )
            made.append(model(input_ids=given).logits[0].double().log_softmax(-1))
        stack.forward = whole
        real = model(input_ids=given).logits[0].double().log_softmax(-1)
    torch.testing.assert_close(made[-1], real, rtol=0, atol=1e-6)
    return torch.stack(made).numpy()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CLASSES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, TorchRuntime]:
    folder = tmp_path_factory.mktemp("repository") / "model"
    return request.param, saved(request.param, folder), serve(folder)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> TorchRuntime:
    folder = tmp_path_factory.mktemp("repository") / "model"
    saved("gpt2", folder)
    return serve(folder)


def test_every_layer_predicts_what_eager_logits_say(served: tuple[str, Any, TorchRuntime]) -> None:
    case, model, runtime = served
    every = [some_ids(length) for length in LENGTHS]
    looks_back = runtime.card("model").spec["attention"]["causal"]
    for ids, found in zip(every, run(runtime, *(item(runtime, ids) for ids in every)), strict=True):
        expected = eager(model, ids, CLASSES[case][1])
        atol = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        likeliest_first = -np.sort(-expected, axis=-1)[..., :K]
        np.testing.assert_allclose(found["next_logprobs"], likeliest_first, rtol=0, atol=atol)
        of_ids = np.take_along_axis(expected, found["next_ids"].astype(np.int64), -1)
        np.testing.assert_allclose(found["next_logprobs"], of_ids, rtol=0, atol=atol)
        read = expected[:, :-1] if looks_back else expected
        spoken_of = ids[1:] if looks_back else ids
        own = np.take_along_axis(read, np.broadcast_to(spoken_of[:, None], (*read.shape[:2], 1)), -1)[..., 0]
        np.testing.assert_allclose(found["logprobs"][:, : own.shape[1]], own, rtol=0, atol=atol)
        assert np.isnan(found["logprobs"][:, own.shape[1] :]).all()


def test_cards_say_of_which_word_a_row_speaks(served: tuple[str, Any, TorchRuntime]) -> None:
    *_, runtime = served
    card = runtime.card("model")
    assert card.predictions is not None
    assert card.predictions.of == ("next" if card.spec["attention"]["causal"] else "own")
    assert card.predictions.words == WORDS


def test_targets_are_the_same_numbers_in_the_asked_order(gpt2: TorchRuntime) -> None:
    ids = some_ids(12)
    targets = (9, 3, 40)
    (every,) = run(gpt2, item(gpt2, ids, top_k=WORDS))
    (found,) = run(gpt2, item(gpt2, ids, outputs=("logprobs",), targets=targets, rows=(11, 0)))
    assert found["logprobs"].shape == (3, 2, 3)
    for place, row in enumerate((11, 0)):
        for at, word in enumerate(targets):
            where = every["next_ids"][:, row] == word
            np.testing.assert_array_equal(
                found["logprobs"][:, place, at], every["next_logprobs"][:, row][where]
            )


def test_the_last_row_has_nothing_that_follows_it(gpt2: TorchRuntime) -> None:
    (found,) = run(gpt2, item(gpt2, some_ids(5), outputs=("logprobs",), layers=(2,), layer_axis=False))
    assert np.isnan(found["logprobs"]).tolist() == [False] * 4 + [True]
    (none,) = run(gpt2, item(gpt2, some_ids(5), outputs=("logprobs",), rows=(4,)))
    assert np.isnan(none["logprobs"]).all()


@pytest.mark.parametrize("case", ["gpt2", "bert"])
def test_a_row_has_the_same_bits_whatever_is_beside_it(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.native() is None:
        pytest.skip("Heed was installed without a C compiler")
    saved(case, tmp_path / "model")
    runtime = serve(tmp_path / "model")
    monkeypatch.setattr(table_module, "ROWS_AT_ONCE", 16)
    others = [item(runtime, some_ids(length, length), top_k=length) for length in (40, 3, 17)]
    mine = [
        item(runtime, some_ids(21), rows=(20,)),
        item(runtime, some_ids(21), targets=(3, 4, 5), top_k=2),
        item(runtime, some_ids(21), dtype="float16"),
    ]
    for one in mine:
        (alone,) = run(runtime, one)
        for batch, place in (([one, *others], 0), ([*others, one], 3), ([others[0], one, *mine], 1)):
            beside = run(runtime, *batch)[place]
            for name, numbers in alone.items():
                np.testing.assert_array_equal(beside[name], numbers, err_msg=name)


@pytest.mark.parametrize("rows", [1, 2, 15, 33])
def test_sums_over_words_do_not_depend_on_rows_or_threads(rows: int, threads: Callable[[int], None]) -> None:
    if native.native() is None:
        pytest.skip("Heed was installed without a C compiler")
    words = WordTable(Table(random(9001, 24)), PredictionSpec(softcap=4.0), random(9001, seed=2))
    x, nobody = random(33, 24, seed=1), torch.empty(33, 0, dtype=torch.int64)
    threads(1)
    whole = finish(likeliest(words, x, [(slice(0, 33), 5)], nobody))
    for count in (1, 2):
        threads(count)
        some = finish(likeliest(words, x[:rows], [(slice(0, rows), 5)], nobody[:rows]))
        assert torch.equal(some.lse_N, whole.lse_N[:rows])
        assert torch.equal(some.scores[0], whole.scores[0][:rows])
        assert torch.equal(some.ids[0], whole.ids[0][:rows])


def test_blocks_of_words_come_to_what_all_of_them_do(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random(1000, 16), random(70, 16, seed=1)
    asked = torch.randint(-1, 1000, (70, 4), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(table_module, "MOST_WORDS", 64)
    monkeypatch.setattr(table_module, "ROWS_AT_ONCE", 32)
    cuts = [(slice(0, 10), 0), (slice(10, 40), 100), (slice(40, 70), 3)]
    spec = PredictionSpec(scale=0.25, softcap=2.0)
    found = finish(likeliest(WordTable(Table(weight), spec, None), x, cuts, asked))
    scores = 2.0 * torch.tanh(0.25 * x.double() @ weight.double().mT / 2.0)
    torch.testing.assert_close(found.lse_N, scores.logsumexp(-1), rtol=0, atol=1e-5)
    for (rows, k), best, ids in zip(cuts, found.scores, found.ids, strict=True):
        expected = scores[rows].topk(k, dim=-1)
        torch.testing.assert_close(best.double(), expected.values, rtol=0, atol=1e-5)
        torch.testing.assert_close(scores[rows].gather(-1, ids), expected.values, rtol=0, atol=1e-5)
    for row in range(70):
        for at, word in enumerate(asked[row].tolist()):
            wanted = torch.nan if word < 0 else float(scores[row, word])
            assert float(found.asked_NM[row, at]) == pytest.approx(wanted, abs=1e-5, nan_ok=True)


def test_scores_of_all_words_of_all_rows_are_never_held() -> None:
    """T = 512 rows of a vocabulary of 128k: 256 MiB, of which a block of 4 MiB is held at a time."""
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            for one in made if isinstance(made, tuple | list) else (made,):
                if isinstance(one, torch.Tensor) and not one._is_view():
                    largest = max(largest, one.nbytes)
            return made

    words = WordTable(Table(torch.zeros(131072, 8)), PredictionSpec(), None)
    x = random(512, 8)
    with Sizes():
        steps = likeliest(words, x, [(slice(0, 512), 5)], torch.zeros(512, 1, dtype=torch.int64))
        found = finish(steps)
    torch.testing.assert_close(found.lse_N, torch.full((512,), np.log(131072), dtype=torch.float64))
    assert 0 < largest <= 5 << 20


def test_a_batch_may_be_left_between_blocks_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MOST_WORDS", 64)
    words = WordTable(Table(random(256, 16)), PredictionSpec(), None)
    steps = likeliest(words, random(3, 16), [(slice(0, 3), 1)], torch.empty(3, 0, dtype=torch.int64))
    assert sum(1 for _ in steps) == 3


@pytest.mark.parametrize(("dtype", "error"), [("bfloat16", 0.2), ("float16", 0.03), ("int8", 0.5)])
@pytest.mark.parametrize("case", ["gpt2", "qwen3"])
def test_narrow_tables_are_near(case: str, dtype: str, error: float, tmp_path: Path) -> None:
    if dtype == "int8" and native.native() is None:
        pytest.skip("Heed was installed without a C compiler")
    saved(case, tmp_path / "model")
    wide, narrow = serve(tmp_path / "model"), serve(tmp_path / "model", dtype=dtype)
    ids = some_ids(20)
    (expected,), (found,) = run(wide, item(wide, ids)), run(narrow, item(narrow, ids))
    off = np.abs(found["logprobs"] - expected["logprobs"])[:, :-1]
    assert np.median(off) < error
    assert narrow.card("model").bytes_resident < wide.card("model").bytes_resident


def test_an_untied_table_is_loaded_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    saved("llama", folder)
    without = serve(folder, predictions=False).card("model")
    assert without.predictions is None
    assert set(OUTPUTS).isdisjoint(without.outputs)
    for name in OUTPUTS:
        assert "lm_head.weight of 50 words" in without.not_offered[name]
        assert "--predictions" in without.not_offered[name]
    asked = serve(folder).card("model")
    assert asked.bytes_resident == without.bytes_resident + 4 * WORDS * asked.d_model
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"predictions": True}))
    assert serve(folder, predictions=False).card("model").predictions == asked.predictions
    (folder / "config.json").write_text(json.dumps(config | {"predictions": 1}))
    with pytest.raises(SpecError, match="predictions is 1; it must be true or false"):
        serve(folder)


def test_a_tied_table_is_there_whoever_asks_and_is_held_once(tmp_path: Path) -> None:
    saved("gpt2", tmp_path / "model")
    card = serve(tmp_path / "model", predictions=False).card("model")
    assert card.predictions is not None
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert card.bytes_resident == sum(one.nbytes for one in stored.values())


def without(folder: Path, start: str) -> None:
    """Drop tensors from a folder's file."""
    stored = load_file(folder / "model.safetensors")
    kept = {name: one for name, one in stored.items() if not name.startswith(start)}
    assert len(kept) < len(stored)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("case", "start", "said"),
    [
        ("bert", "cls.", "does not hold the whole masked-language head: head.dense.weight"),
        ("bert", "cls.predictions.bias", "masked-language head: head.bias is missing"),
        ("llama", "lm_head.", "holds no output table"),
    ],
)
def test_a_file_without_what_predicts_words_is_served_without(
    case: str, start: str, said: str, tmp_path: Path
) -> None:
    saved(case, tmp_path / "model")
    without(tmp_path / "model", start)
    card = serve(tmp_path / "model").card("model")
    assert said in card.not_offered["next_ids"]
    assert "hidden" in card.outputs


def test_what_does_not_fit_is_told_and_refuses_nothing(tmp_path: Path) -> None:
    saved("llama", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    stored = load_file(file)
    save_file(stored | {"lm_head.weight": stored["lm_head.weight"][:7].clone()}, file, {"format": "pt"})
    assert (
        "has shape [7, 32], not [50, 32]" in serve(tmp_path / "model").card("model").not_offered["logprobs"]
    )
    spoiled = stored["lm_head.weight"].clone()
    spoiled[3, 3] = torch.inf
    save_file(stored | {"lm_head.weight": spoiled}, file, {"format": "pt"})
    assert "not finite" in serve(tmp_path / "model").card("model").not_offered["logprobs"]


def test_scores_that_overflow_are_a_failure_of_that_sequence_alone(tmp_path: Path) -> None:
    saved("llama", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    stored = load_file(file)
    save_file(stored | {"lm_head.weight": stored["lm_head.weight"] * 3e38}, file, {"format": "pt"})
    runtime = serve(tmp_path / "model")
    plain = item(runtime, some_ids(5), outputs=("hidden",))
    first, second = runtime.run([item(runtime, some_ids(4)), plain]).answers
    assert isinstance(first, Failure)
    assert first.code == "not_finite"
    assert isinstance(second, Answer)


def test_the_loss_that_training_measured_is_the_mean_of_logprobs(tmp_path: Path) -> None:
    text = grammar.write(200)
    plan = Plan(steps=30, d_model=32, heads=2, batch=16, learning_rate=1e-2, evaluate_every=30)
    report = train(text, tmp_path / "model", plan=plan)
    runtime = serve(tmp_path / "model", predictions=False)  # the folder says so itself
    held_out = corpus.read(text, context=plan.context, vocabulary=plan.vocabulary, seed=plan.seed).held_out
    chosen = {"outputs": ("logprobs",), "layer_axis": False, "layers": (runtime.card("model").layers - 1,)}
    found = run(runtime, *(item(runtime, piece, **chosen) for piece in held_out))
    every = np.concatenate([one["logprobs"][:-1] for one in found])
    assert -every.astype(np.float64).mean() == pytest.approx(report.held_out[30], abs=5e-5)


UNTIED = {"tie_word_embeddings": False}
FOREIGN_CASES = {
    "granite": (
        "GraniteForCausalLM",
        "norm",
        GROUPED | {"logits_scaling": 3.0, "tie_word_embeddings": False},
    ),
    "cohere": ("CohereForCausalLM", "norm", GROUPED | {"logit_scale": 0.3}),
    "esm": ("EsmForMaskedLM", "encoder.emb_layer_norm_after", ESM),
    "bert": ("BertForMaskedLM", None, SIZES | FOREIGN),
}


@pytest.mark.parametrize("model_type", FOREIGN_CASES)
def test_models_through_transformers_predict_by_their_own_head(model_type: str, tmp_path: Path) -> None:
    name, final, sizes = FOREIGN_CASES[model_type]
    model = save_random(model_type, sizes, name, tmp_path / "model")
    runtime = serve(tmp_path / "model")
    card = runtime.card("model")
    assert "transformers" in card.kernel
    assert card.predictions is not None, card.not_offered
    assert card.predictions.of == ("own" if "Masked" in name else "next")
    ids = some_ids(13)
    (found, other) = run(runtime, item(runtime, ids), item(runtime, some_ids(9)))
    expected = eager(model, ids, final)
    atol = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(
        found["next_logprobs"], -np.sort(-expected, axis=-1)[..., :K], rtol=0, atol=atol
    )
    assert np.isnan(other["logprobs"][:, -1]).all() == (card.predictions.of == "next")


def test_only_the_last_layer_is_predicted_of_where_the_final_norm_is_not_known(tmp_path: Path) -> None:
    name, _, sizes = FOREIGN_CASES["cohere"]
    save_random("cohere", sizes, name, tmp_path / "model")
    runtime = serve(tmp_path / "model")
    tower = loaded(runtime.card("model")).model
    assert isinstance(tower, Tower)
    tower.words.lens = False
    every, last = item(runtime, some_ids(4)), item(runtime, some_ids(4), layers=(2,))
    refused, answered = runtime.run([every, last]).answers
    assert isinstance(refused, Failure)
    assert "not known: predict of the last layer" in refused.message
    assert isinstance(answered, Answer)


def test_models_through_transformers_say_why_they_predict_nothing(tmp_path: Path) -> None:
    name, _, sizes = FOREIGN_CASES["granite"]
    save_random("granite", sizes, name, tmp_path / "untied")
    card = serve(tmp_path / "untied", predictions=False).card("untied")
    assert set(OUTPUTS).isdisjoint(card.outputs)
    assert "lm_head.weight (0 MiB), is not loaded; serve with --predictions" in card.not_offered["next_ids"]
    save_random("bert", SIZES | FOREIGN, "BertModel", tmp_path / "bare")
    said = serve(tmp_path / "bare").card("bare").not_offered["logprobs"]
    assert said == "its folder was saved by BertModel, which predicts no words"
