"""`head_sets.json`: what it may say, and what a folder is refused for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.errors import SpecError
from models.heads.reading import read_head_sets
from models.heads.sets import HeadSet

SIZES = {"": (2, 4)}


def folder(tmp_path: Path, sets: Any, **tables: Any) -> Path:
    (tmp_path / "head_sets.json").write_text(sets if isinstance(sets, str) else json.dumps(sets))
    for name, table in tables.items():
        save_file({"weights": np.asarray(table)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def refusal(tmp_path: Path, sets: Any, sizes: Any = SIZES, **tables: Any) -> str:
    with pytest.raises(SpecError) as caught:
        read_head_sets(folder(tmp_path, sets, **tables), sizes)
    return str(caught.value)


def test_a_folder_without_the_file_has_no_sets(tmp_path: Path) -> None:
    assert read_head_sets(tmp_path, SIZES) == {"": {}}


def test_pairs_are_read_with_weights_and_source(tmp_path: Path) -> None:
    sets = {"qr": {"pairs": [[1, 3], [-2, 0]], "weights": [0.5, 2], "source": "arXiv:2506.09944"}}
    assert read_head_sets(folder(tmp_path, sets), SIZES)[""]["qr"] == HeadSet(
        pairs=((1, 3), (0, 0)), weights=(0.5, 2.0), source="arXiv:2506.09944"
    )


def test_a_file_weighs_every_head_of_the_model(tmp_path: Path) -> None:
    table = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = read_head_sets(folder(tmp_path, {"at2": {"file": "at2.safetensors"}}, at2=table), SIZES)
    (one,) = found[""].values()
    assert one.pairs[:5] == ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0))
    assert one.weights == tuple(range(8))
    assert one.mix().pairs[0] == (0, 1)  # the head of weight 0 is left out


def test_contacts_say_what_is_done_to_maps(tmp_path: Path) -> None:
    sets = {
        "contacts": {
            "pairs": [[0, 1]],
            "symmetric": True,
            "apc": True,
            "skip": [1, 1],
            "bias": -0.4,
            "activation": "sigmoid",
        }
    }
    mix = read_head_sets(folder(tmp_path, sets), SIZES)[""]["contacts"].mix()
    assert (mix.symmetric, mix.apc, mix.skip, mix.bias, mix.sigmoid) == (True, True, (1, 1), -0.4, True)


def test_sets_of_an_encoder_decoder_model_are_of_the_part_they_name(tmp_path: Path) -> None:
    sizes = {"": (2, 4), "decoder": (3, 2), "cross": (3, 2)}
    sets = {"a": {"pairs": [[1, 3]]}, "align": {"pairs": [[2, 1]], "part": "cross"}}
    found = read_head_sets(folder(tmp_path, sets), sizes)
    assert {part: list(named) for part, named in found.items()} == {
        "": ["a"],
        "decoder": [],
        "cross": ["align"],
    }
    wrong = {"align": {"pairs": [[0, 3]], "part": "cross"}}
    assert "2 heads a layer, from 0 to 1" in refusal(tmp_path, wrong, sizes)


@pytest.mark.parametrize(
    ("sets", "reason"),
    [
        ({"a": {"pairs": [[2, 0]]}}, "a.pairs[0] is [2, 0]; the model has 2 layers, from -2 to 1"),
        (
            {"a": {"pairs": [[0, 0], [0, 4]]}},
            "a.pairs[1] is [0, 4]; the model has 4 heads a layer, from 0 to 3",
        ),
        ({"a": {"pairs": [[0, 0, 1]]}}, "a.pairs[0] is [0, 0, 1]; give [layer, head]"),
        ({"a": {"pairs": [[1, 0], [-1, 0]]}}, "a.pairs has the same pair twice; give each once"),
        ({"a": {"pairs": []}}, "a.pairs is empty; give at least one [layer, head]"),
        ({"a": {"pairs": [[0, "1"]]}}, "a.pairs[0][1] is '1'; it must be of type int"),
        ({"a": {"pair": [[0, 1]]}}, "unknown field a.'pair'; known here: pairs, weights, file"),
        ({"a": {}}, "a has neither pairs nor file; give one of them"),
        ({"a": {"pairs": [[0, 1]], "file": "x.safetensors"}}, "a has both pairs and file; give one of them"),
        ({"a": {"pairs": [[0, 1]], "weights": [1, 2]}}, "a.weights has 2 numbers, and there are 1 pairs"),
        ({"a": {"file": "x.safetensors", "weights": [1]}}, "a.weights stands beside pairs"),
        ({"a": {"file": "../x.safetensors"}}, "a.file is '../x.safetensors'; give the name of a safetensors"),
        ({"a": {"file": "x.safetensors"}}, "a.file x.safetensors is missing"),
        ({"a": {"pairs": [[0, 1]], "skip": [1]}}, "a.skip must be two whole numbers"),
        ({"a": {"pairs": [[0, 1]], "skip": [-1, 0]}}, "a.skip must be two whole numbers"),
        ({"a": {"pairs": [[0, 1]], "activation": "relu"}}, "a.activation is 'relu'; choose one of sigmoid"),
        ({"a": {"pairs": [[0, 1]], "part": "cross"}}, "a.part is 'cross'; the model has ''"),
        ({"7": {"pairs": [[0, 1]]}}, "a set is called '7'; a name begins with a letter"),
        ({"a b": {"pairs": [[0, 1]]}}, "a set is called 'a b'"),
        ({"a": [[0, 1]]}, "a must be an object"),
        ("[]", "must hold an object"),
        ('{"a": {"pairs": [[0, 1]]}, "a": {"pairs": [[0, 2]]}}', "twice"),
    ],
)
def test_a_bad_file_is_refused_with_the_set_and_the_field(tmp_path: Path, sets: Any, reason: str) -> None:
    message = refusal(tmp_path, sets)
    assert message.startswith("head_sets.json")
    assert reason in message


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    sets = {"at2": {"file": "at2.safetensors"}}
    assert "shape [3, 4]; the model has [2, 4]" in refusal(tmp_path, sets, at2=np.ones((3, 4), np.float32))
    assert "not finite" in refusal(tmp_path, sets, at2=np.full((2, 4), np.inf, np.float32))
    assert "no tensor weights" in refusal(tmp_path, sets, at2=np.ones((2, 4), np.int32))
    (tmp_path / "at2.safetensors").write_bytes(b"nothing of the kind")
    assert "at2.safetensors cannot be read" in refusal(tmp_path, sets)
