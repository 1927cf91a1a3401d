"""A checkpoint reads back bit for bit, or is refused with its reason."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.errors import SpecError
from models.training import checkpoint

TENSORS = {
    "weights": torch.randn(3, 5),
    "step": torch.tensor(7.0),
    "losses": torch.rand(4, dtype=torch.float64),
}
STATE = {"plan": {"steps": 3, "rate": 0.1}, "curve": [[1, 0.1], [2, 1 / 3]]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "checkpoint.safetensors", TENSORS, STATE)
    return tmp_path / "checkpoint.safetensors"


def test_tensors_and_state_read_back_equal(file: Path) -> None:
    tensors, state = checkpoint.load(file)
    assert state == STATE
    assert tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[name], one) and tensors[name].dtype == one.dtype for name, one in TENSORS.items()
    )


def test_a_new_checkpoint_takes_the_place_of_the_old_and_leaves_nothing_beside_it(file: Path) -> None:
    checkpoint.save(file, {"weights": torch.zeros(1)}, {})
    assert checkpoint.load(file)[0].keys() == {"weights"}
    assert list(file.parent.iterdir()) == [file]


def test_one_flipped_bit_is_noticed_wherever_it_is(file: Path) -> None:
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(SpecError, match=r"checkpoint\.safetensors"):
            checkpoint.load(file)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_file_is_refused_with_a_remedy(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(SpecError, match="start afresh"):
        checkpoint.load(file)


def test_safetensors_of_something_else_are_refused(file: Path) -> None:
    save_file({"weights": torch.zeros(2)}, file)
    with pytest.raises(SpecError, match="not a checkpoint"):
        checkpoint.load(file)


def test_others_may_read_what_is_written(file: Path) -> None:
    plain = file.with_name("plain")
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode
