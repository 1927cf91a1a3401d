"""Models replaced while they serve: every answer of one version, and a broken folder changes nothing."""

import asyncio
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from models.device import capacity
from models.errors import ModelError, SpecError, UnknownModel
from models.folders.parameters import parameter_shapes
from models.outputs import Selection
from models.protocol import Answer, Item, ModelCard, Tokens
from models.runtime import TorchRuntime
from models.spec import EmbeddingSpec, FeedForwardSpec, ModelSpec, NormSpec
from service.batching.engine import Engine
from service.batching.limits import Limits
from tests.queueing import submit

RELOADS, REQUESTS, AT_ONCE = 100, 10_000, 25
SPEC = ModelSpec(
    d_model=8,
    heads=2,
    layers=2,
    residual=True,
    norm=NormSpec(kind="layer", placement="pre", final=True),
    feed_forward=FeedForwardSpec(d_ff=16),
    embedding=EmbeddingSpec(vocabulary=9),
)
CHOSEN = Selection(outputs=("z", "weights", "hidden"), layers=(0, 1), layer_axis=True)


def parameters(seed: int, spec: ModelSpec = SPEC) -> dict[str, np.ndarray]:
    chance = np.random.default_rng(seed)
    return {
        name: chance.standard_normal(shape).astype(np.float32)
        for name, shape in parameter_shapes(spec).items()
    }


def write(folder: Path, seed: int, spec: ModelSpec = SPEC) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(spec.to_config()))
    save_file(parameters(seed, spec), folder / "model.safetensors")
    return folder


def runtime_of(repository: Path, *models: str, dtype: str = "float32") -> TorchRuntime:
    return TorchRuntime(repository, models=models or ("model",), device="cpu", dtype=dtype)


def item(card: ModelCard, ids: list[int], *, deterministic: bool = False) -> Item:
    given = Tokens(ids=np.array(ids, np.int64))
    return Item(card=card, input=given, selection=CHOSEN, deterministic=deterministic)


def answer(runtime: TorchRuntime, one: Item) -> dict[str, np.ndarray]:
    (made,) = runtime.run([one]).answers
    assert isinstance(made, Answer)
    return made.tensors


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name in CHOSEN.outputs:
        np.testing.assert_array_equal(one[name], other[name])


# ---- reloading under load


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SEQUENCES = ([1, 2, 3], [4], [5, 6, 7, 8, 0])
BRIEF = Selection(outputs=("weights", "hidden"), layers=(1,))


async def ask_while_reloading(
    runtime: TorchRuntime, engine: Engine, reload: Callable[[int], None]
) -> list[tuple[object, int, list[Answer]]]:
    """Return, for each request, the handle its card carried, which sequence it was, and its two answers."""
    answered: list[tuple[object, int, list[Answer]]] = []

    async def caller(number: int) -> None:
        for turn in range(REQUESTS // RELOADS // AT_ONCE):
            card, which = runtime.card("model"), (number + turn) % len(SEQUENCES)
            one = replace(item(card, SEQUENCES[which]), selection=BRIEF)
            ticket = submit(engine, [one, one])
            try:
                done = await ticket.result()
                answered.append((card.handle, which, list(done.answers)))
            finally:
                ticket.cancel()

    for turn in range(RELOADS):
        # The callers first: each has the version before, however quick the reload is.
        await asyncio.gather(*(caller(number) for number in range(AT_ONCE)), asyncio.to_thread(reload, turn))
    return answered


def test_every_answer_belongs_to_one_version_and_none_fails_through_100_reloads(tmp_path: Path) -> None:
    folders = [write(tmp_path / f"weights{seed}", seed) for seed in (0, 1)]
    (tmp_path / "repository").mkdir()
    shutil.copytree(folders[0], tmp_path / "repository" / "model" / "1")
    runtime = runtime_of(tmp_path / "repository")
    cards = [runtime.card("model")]

    def reload(turn: int) -> None:
        if turn % 2:  # a new version beside the old ones
            version = str(turn + 2)
            shutil.copytree(folders[(turn + 1) % 2], tmp_path / "repository" / "model" / version)
        else:  # the same version, other weights
            file = "model.safetensors"
            at = tmp_path / "repository" / "model" / runtime.card("model").version / file
            shutil.copy(folders[(turn + 1) % 2] / file, at)
        cards.append(runtime.load("model"))

    engine = Engine(runtime, Limits())
    engine.start()
    try:
        answered = asyncio.run(ask_while_reloading(runtime, engine, reload))
    finally:
        engine.stop()
    assert len(answered) == REQUESTS
    assert len(cards) == RELOADS + 1
    weights_of = {id(card.handle): turn % 2 for turn, card in enumerate(cards)}
    assert len({id(handle) for handle, _, _ in answered}) >= RELOADS  # requests ran all through the reloads
    expected = [
        [answer(runtime, replace(item(cards[version], ids), selection=BRIEF)) for ids in SEQUENCES]
        for version in (0, 1)
    ]
    assert np.abs(expected[0][0]["hidden"] - expected[1][0]["hidden"]).max() > 0.1
    for handle, which, made in answered:
        for one in made:
            reference = expected[weights_of[id(handle)]][which]
            for name in BRIEF.outputs:
                assert np.abs(one.tensors[name] - reference[name]).max() <= 1e-5


def test_deterministic_answers_have_the_same_bits_alone_in_a_crowd_and_after_a_reload(
    repository: Path,
) -> None:
    runtime = runtime_of(repository, "minilm")
    chance = np.random.default_rng(5)
    given = [chance.integers(1000, 20_000, length).tolist() for length in range(1, 33)]

    async def crowd(card: ModelCard) -> list[Answer]:
        tickets = [submit(engine, [item(card, ids, deterministic=True)]) for ids in given]
        noise = [submit(engine, [item(card, ids)]) for ids in given]
        found = [(await ticket.result()).answers[0] for ticket in tickets]
        for ticket in (*tickets, *noise):
            ticket.cancel()
        return found

    engine = Engine(runtime, Limits())
    engine.start()
    try:
        card = runtime.card("minilm")
        alone = [answer(runtime, item(card, ids)) for ids in given]
        together = asyncio.run(crowd(card))
        reloaded = runtime.load("minilm")
        again = asyncio.run(crowd(reloaded))
    finally:
        engine.stop()
    mixed = runtime.run([item(card, ids) for ids in given]).answers
    for one, other, third, batch in zip(alone, together, again, mixed, strict=True):
        assert_same_bits(one, other.tensors)
        assert_same_bits(one, third.tensors)
        for name in CHOSEN.outputs:
            np.testing.assert_allclose(batch.tensors[name], one[name], atol=1e-5)


# ---- broken folders


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def garbled_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:8] + b"}" + file.read_bytes()[9:])


def without_a_tensor(folder: Path) -> None:
    tensors = parameters(1)
    del tensors["layers.1.attention.key.bias"]
    save_file(tensors, folder / "model.safetensors")


def of_another_shape(folder: Path) -> None:
    tensors = parameters(1)
    tensors["layers.0.attention.output.weight"] = np.zeros((8, 9), np.float32)
    save_file(tensors, folder / "model.safetensors")


def with_nan(folder: Path) -> None:
    tensors = parameters(1)
    tensors["layers.0.feed_forward.up.weight"][3, 4] = np.nan
    save_file(tensors, folder / "model.safetensors")


def that_overflows(folder: Path) -> None:
    tensors = {name: tensor * np.float32(1e30) for name, tensor in parameters(1).items()}
    save_file(tensors, folder / "model.safetensors")


def with_a_stranger(folder: Path) -> None:
    save_file({**parameters(1), "layers.7.spare": np.zeros(3, np.float32)}, folder / "model.safetensors")


def with_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"heed": 1,')


def contradictory(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**SPEC.to_config(), "heads": 3}))


def of_nobody(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))


def bad_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[]")


def linked_out(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/hostname")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


BROKEN = [
    *(cut_short, garbled_header, without_a_tensor, of_another_shape, with_nan, that_overflows),
    *(with_a_stranger, with_a_pickle, not_json, contradictory, of_nobody, bad_tokenizer, linked_out, emptied),
]


@pytest.mark.parametrize("break_it", BROKEN, ids=lambda one: one.__name__)
def test_a_broken_folder_is_refused_and_the_old_model_goes_on(break_it, tmp_path: Path) -> None:
    write(tmp_path / "model", 0)
    runtime = runtime_of(tmp_path)
    before = runtime.card("model")
    expected = answer(runtime, item(before, [1, 2, 3]))
    memory = runtime.memory()
    break_it(tmp_path / "model")
    with pytest.raises(ModelError) as refusal:
        runtime.load("model")
    assert runtime.card("model") is before
    assert runtime.memory() == memory
    assert_same_bits(answer(runtime, item(runtime.card("model"), [1, 2, 3])), expected)
    assert len(str(refusal.value)) < 1000
    shutil.rmtree(tmp_path / "model")
    write(tmp_path / "model", 1)
    assert runtime.load("model") is runtime.card("model")
    assert np.abs(answer(runtime, item(runtime.card("model"), [1, 2, 3]))["z"] - expected["z"]).max() > 0


def test_what_was_admitted_before_an_unload_is_still_answered(tmp_path: Path) -> None:
    write(tmp_path / "model", 0)
    runtime = runtime_of(tmp_path)
    one = item(runtime.card("model"), [1, 2])
    expected = answer(runtime, one)
    runtime.unload("model")
    with pytest.raises(UnknownModel):
        runtime.card("model")
    assert runtime.index()[0]["reason"] == "unloaded"
    assert_same_bits(answer(runtime, one), expected)
    with pytest.raises(UnknownModel):
        runtime.unload("model")


# ---- room, and a dtype of its own


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "model", 0)
    runtime = runtime_of(tmp_path)
    need = runtime.card("model").bytes_resident
    monkeypatch.setattr("models.loading.load_weights", lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setattr(capacity, "available_bytes", lambda _: need - 1)
    with pytest.raises(SpecError, match=f"needs {need} bytes on cpu, where {need - 1} are free"):
        runtime.load("model")
    assert runtime.card("model").bytes_resident == need


def test_memory_that_is_free_is_the_kernels_estimate_within_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(capacity, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(capacity, "GROUP", tmp_path)
    assert capacity.available_bytes(cpu) is None
    capacity.require_room(2**60, cpu, what="anything")
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert capacity.available_bytes(cpu) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 500\n")
    assert capacity.available_bytes(cpu) == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000\n")
    assert capacity.available_bytes(cpu) == 1500


def test_a_model_may_have_a_dtype_of_its_own_and_keeps_it_when_loaded_again(tmp_path: Path) -> None:
    write(tmp_path / "one", 0)
    write(tmp_path / "two", 0)
    runtime = runtime_of(tmp_path, "one:bfloat16", "two")
    assert [card.dtype for card in runtime.cards()] == ["bfloat16", "float32"]
    assert [card.computed_in for card in runtime.cards()] == ["float32", "float32"]
    matrices = sum(one.nbytes for one in parameters(0).values() if one.ndim == 2)
    assert runtime.card("two").bytes_resident - runtime.card("one").bytes_resident == matrices // 2
    assert runtime.load("one").dtype == "bfloat16"
