"""SEEDS row 13: Q, K and V learned by backpropagation on next-word prediction, and the result served."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.errors import SpecError
from models.folders.families import read_spec
from models.folders.weights import load_weights
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from models.training import grammar
from models.training.language import initial
from models.training.plan import Plan
from models.training.train import CHECKPOINT, Progress, Report, train

TEXT = grammar.write(400)
TINY = Plan(steps=120, d_model=32, heads=2, batch=16, learning_rate=1e-2, evaluate_every=40)
FILES = ("config.json", "model.safetensors", "tokenizer.json", "loss.csv", "training.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """One run from start to end, and what it wrote."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    return folder, train(TEXT, folder, plan=TINY)


def interrupted_after(steps: int, folder: Path, **options: Any) -> Report:
    """Train until `stop` is asked for after that many steps of this call."""
    done: list[Progress] = []
    return train(TEXT, folder, plan=TINY, on_step=done.append, stop=lambda: len(done) == steps, **options)


def test_seed_13_loss_falls_and_beats_a_unigram(whole: tuple[Path, Report]) -> None:
    _, report = whole
    assert report.finished
    assert len(report.losses) == TINY.steps
    assert sum(report.losses[-10:]) < 0.6 * sum(report.losses[:10])
    assert list(report.held_out) == [40, 80, 120]
    assert report.held_out[120] < report.held_out[40]
    assert report.better_than_unigram > 0.15


def test_seed_13_every_matrix_of_attention_changes(whole: tuple[Path, Report]) -> None:
    folder, _ = whole
    learned = load_file(folder / "model.safetensors")
    before = initial(TINY.spec(len(learned["head.weight"])), seed=TINY.seed)
    for which in ("query", "key", "value", "output"):
        name = f"layers.0.attention.{which}.weight"
        change = (learned[name] - before[name]).norm() / before[name].norm()
        assert change > 0.1, which


def test_seed_13_the_folder_is_one_that_the_server_reads(whole: tuple[Path, Report]) -> None:
    folder, _ = whole
    found = read_spec(folder)
    assert found.family == "heed"
    assert found.tokenizer.file == folder / "tokenizer.json"
    assert found.spec == TINY.spec(found.spec.embedding.vocabulary if found.spec.embedding else 0)
    served = load_weights(found.weights, found.spec, found.naming)
    written = load_file(folder / "model.safetensors")
    assert all(torch.equal(served[name], written[name]) for name in served)
    assert set(written) - set(served) == {"head.weight"}


def test_seed_13_the_result_is_served(whole: tuple[Path, Report]) -> None:
    runtime = TorchRuntime(whole[0].parent, models=("model",), device="cpu", dtype="float32")
    card = runtime.card("model")
    text = runtime.tokenize(card, "The KEYS near the zebra")
    assert text.tokens == ("the", "keys", "near", "the", "[UNK]")
    item = Item(card=card, input=Tokens(ids=text.ids), selection=Selection(outputs=("z", "weights")))
    (answer,) = runtime.run([item]).answers
    assert isinstance(answer, Answer)
    assert answer.tensors["z"].shape == (5, 32)
    np.testing.assert_allclose(answer.tensors["weights"].sum(-1), np.ones((2, 5)), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 40, 77, 119])
def test_interrupted_and_resumed_ends_as_if_never_interrupted(
    whole: tuple[Path, Report], tmp_path: Path, steps: int
) -> None:
    folder, expected = whole
    stopped = interrupted_after(steps, tmp_path)
    assert not stopped.finished
    assert stopped.losses == expected.losses[:steps]
    assert not (tmp_path / "config.json").exists()  # not a model yet
    assert train(TEXT, tmp_path, plan=TINY, resume=True) == expected
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in FILES)


def test_interrupted_many_times_ends_the_same(whole: tuple[Path, Report], tmp_path: Path) -> None:
    report = interrupted_after(35, tmp_path)
    while not report.finished:
        report = interrupted_after(35, tmp_path, resume=True)
    assert report == whole[1]


def test_killed_between_checkpoints_goes_on_from_the_last(whole: tuple[Path, Report], tmp_path: Path) -> None:
    def killed(at: Progress) -> None:
        if at.step == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TEXT, tmp_path, plan=TINY, checkpoint_every=15, on_step=killed)
    steps: list[int] = []
    report = train(TEXT, tmp_path, plan=TINY, resume=True, on_step=lambda at: steps.append(at.step))
    assert steps[0] == 31
    assert report == whole[1]


def test_resuming_a_finished_run_takes_no_step(whole: tuple[Path, Report]) -> None:
    folder, expected = whole
    steps: list[Progress] = []
    assert train(TEXT, folder, plan=TINY, resume=True, on_step=steps.append) == expected
    assert steps == []


def test_resuming_where_nothing_was_begun_starts(tmp_path: Path) -> None:
    assert train(TEXT, tmp_path / "new", plan=replace(TINY, steps=2), resume=True).finished


def test_damaged_checkpoint_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    interrupted_after(3, tmp_path)
    file = tmp_path / CHECKPOINT
    content = bytearray(file.read_bytes())
    content[-5] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(SpecError, match="damaged"):
        train(TEXT, tmp_path, plan=TINY, resume=True)
    assert file.read_bytes() == content


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("steps", 121), ("d_model", 16), ("batch", 8)])
def test_a_checkpoint_of_another_plan_is_refused_naming_the_field(
    tmp_path: Path, name: str, value: int
) -> None:
    interrupted_after(2, tmp_path)
    with pytest.raises(SpecError, match=f"{name} {getattr(TINY, name)}, not {value}"):
        train(TEXT, tmp_path, plan=replace(TINY, **{name: value}), resume=True)


def test_a_checkpoint_of_another_text_is_refused(tmp_path: Path) -> None:
    interrupted_after(2, tmp_path)
    with pytest.raises(SpecError, match="another text"):
        train(TEXT + "\nMore.", tmp_path, plan=TINY, resume=True)


@pytest.mark.parametrize("name", [CHECKPOINT, "config.json"])
def test_a_folder_in_use_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(SpecError, match=f"already has {name}"):
        train(TEXT, tmp_path, plan=TINY)
    assert (tmp_path / name).read_text() == "mine"


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="smaller learning rate"):
        train(TEXT, tmp_path, plan=replace(TINY, learning_rate=1e30))
    assert not (tmp_path / "config.json").exists()


def test_the_curve_and_the_summary_are_written_beside_the_model(whole: tuple[Path, Report]) -> None:
    folder, report = whole
    with (folder / "loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == list(report.losses)
    assert {int(row["step"]): float(row["held_out"]) for row in rows if row["held_out"]} == report.held_out
    assert {float(row["unigram"]) for row in rows} == {report.unigram}
    summary = json.loads((folder / "training.json").read_text())
    assert summary["held_out"] == report.held_out[TINY.steps]
    assert summary["better_than_unigram"] == report.better_than_unigram


def test_threads_are_as_before_when_training_ends(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    during: list[int] = []
    plan = replace(TINY, steps=2)
    train(TEXT, tmp_path, plan=plan, threads=1, on_step=lambda _: during.append(torch.get_num_threads()))
    assert during == [1, 1]
    assert torch.get_num_threads() == before


def test_transformer_blocks_are_learned_and_read_back_too(tmp_path: Path) -> None:
    plan = replace(TINY, steps=20, layers=2, block="transformer", positions="learned")
    report = train(TEXT, tmp_path, plan=plan)
    assert report.losses[-1] < report.losses[0]
    found = read_spec(tmp_path)
    assert found.spec.residual
    assert load_weights(found.weights, found.spec, found.naming).keys() >= {"final_norm.weight"}
