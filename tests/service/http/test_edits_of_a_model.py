"""Edits of a real model by the whole line, from JSON to JSON: what holds whatever the model's numbers are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.runtime import TorchRuntime
from tests.serving import Served, served

TEXT = {"text": "she sat on the bank of the river"}
OTHER = {"text": "he lay in the bed of the stream"}  # of as many tokens
CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def service(minilm_folder: Path) -> Iterator[Served]:
    runtime = TorchRuntime(minilm_folder.parent, models=("minilm",), device="cpu", dtype="float32")
    with served(runtime) as one:
        yield one


def outputs(service: Served, *inputs: dict[str, Any], **options: Any) -> list[dict[str, np.ndarray]]:
    reply = service.attend({"inputs": list(inputs), "layers": "all", **options}, model="minilm")
    assert reply.status_code == 200, reply.text
    names = options["outputs"]
    return [{name: np.array(one[name]) for name in names} for one in reply.json()["outputs"]]


def edited(*edits: dict[str, Any]) -> dict[str, Any]:
    return {**TEXT, "edits": list(edits)}


def test_z_without_a_head_and_of_that_head_alone_are_z_together(service: Served) -> None:
    def silenced(*heads: int) -> dict[str, Any]:
        return edited({"edit": "scale", "layers": 0, "heads": heads, "value": 0})

    everyone = range(12)
    whole, without, alone, none = (
        one["z"][0]
        for one in outputs(
            service,
            TEXT,
            silenced(5),
            silenced(*(head for head in everyone if head != 5)),
            silenced(*everyone),
            outputs=["z"],
        )
    )
    assert np.abs(none - none[0]).max() < 1e-6  # the projection's bias, the same in every row
    assert np.abs(whole - without).max() > 0.01
    np.testing.assert_allclose(without + alone - none, whole, **CLOSE)


def test_a_run_that_takes_all_its_heads_from_another_ends_as_the_other_began(service: Served) -> None:
    every = {"edit": "from", "layers": "all", "input": 0}
    first, other, patched = outputs(
        service, TEXT, OTHER, {**OTHER, "edits": [every]}, outputs=["z", "z_heads"]
    )
    np.testing.assert_array_equal(patched["z_heads"], first["z_heads"])
    np.testing.assert_array_equal(patched["z"], first["z"])
    assert np.abs(other["z"] - first["z"]).max() > 0.01


def test_z_set_to_what_it_is_anyway_changes_nothing(service: Served) -> None:
    (own,) = outputs(service, TEXT, outputs=["z_heads", "hidden"])
    value = own["z_heads"][3].tolist()
    (again,) = outputs(
        service, edited({"edit": "set", "layers": 3, "value": value}), outputs=["z_heads", "hidden"]
    )
    for name, tensor in again.items():
        np.testing.assert_allclose(tensor, own[name], **CLOSE)


def test_blocked_keys_have_no_weight_and_the_others_share_it(service: Served) -> None:
    block = {"edit": "block", "layers": [1, 2], "queries": [-1], "keys": {"outside": ["river", 0]}}
    one = {**edited(block), "spans": {"river": [27, 32]}}
    plain, blocked = outputs(service, TEXT, one, outputs=["weights"], span_unit="characters")
    left = np.zeros(plain["weights"].shape[-1], bool)
    left[[0, -2]] = True  # the first, and the word before the last
    rows = plain["weights"][1, :, -1]
    np.testing.assert_allclose(
        blocked["weights"][1, :, -1], left * rows / rows[:, left].sum(-1, keepdims=True), **CLOSE
    )
    np.testing.assert_allclose(blocked["weights"][1, :, :-1], plain["weights"][1, :, :-1], **CLOSE)
    np.testing.assert_array_equal(blocked["weights"][0], plain["weights"][0])


def test_weights_put_as_a_matrix_and_by_name_are_reported(service: Served) -> None:
    (plain,) = outputs(service, TEXT, outputs=["weights"])
    length = plain["weights"].shape[-1]
    matrix = np.random.default_rng(0).random((2, length, length), np.float32)
    edits = [
        {"edit": "pattern", "heads": [[4, 7], [2, 1]], "value": matrix.tolist()},
        {"edit": "pattern", "heads": [[0, 0]], "value": "previous"},
    ]
    (put,) = outputs(service, edited(*edits), outputs=["weights"])
    np.testing.assert_array_equal(np.float32(put["weights"][[4, 2], [7, 1]]), matrix)
    np.testing.assert_array_equal(put["weights"][0, 0], np.eye(length)[[0, *range(length - 1)]])
    np.testing.assert_allclose(put["weights"][0, 1:], plain["weights"][0, 1:], **CLOSE)


def test_edits_of_the_callers_own_queries_keys_and_values_are_done(service: Served) -> None:
    chance = np.random.default_rng(1)
    own = {name: chance.standard_normal((2, 3, 4)).astype(np.float32) for name in ("query", "key", "value")}
    matrix = np.float32([[0.5, 0.25, 2], [0, 0, 0], [-1, 1, 1]])
    edits = [
        {"edit": "block", "heads": [0], "queries": [0], "keys": [1]},
        {"edit": "pattern", "heads": [1], "value": matrix.tolist()},
        {"edit": "scale", "queries": [2], "value": -2},
    ]
    one = {name: array.tolist() for name, array in own.items()}
    reply = service.attention({"inputs": [one, {**one, "edits": edits}]})
    plain, edited = (
        {name: np.array(one[name]) for name in ("z", "weights")} for one in reply.json()["outputs"]
    )
    weights = plain["weights"].copy()
    weights[0, 0] *= [1, 0, 1]
    weights[0, 0] /= weights[0, 0].sum()
    weights[1] = matrix
    np.testing.assert_allclose(edited["weights"], weights, **CLOSE)
    np.testing.assert_allclose(edited["z"], weights @ own["value"] * [[1], [1], [-2]], **CLOSE)
