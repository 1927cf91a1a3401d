"""What is done to a file while it is read, or afterwards, is that model's reason or nobody's."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import SpecError
from models.folders.tensor_file import open_tensors
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.runtime import TorchRuntime
from tests.tiny_architectures import tiny
from tests.transformers_models import FOREIGN

FILE = "model.safetensors"


def test_every_tensor_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8)
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in dtypes}
    tensors |= {"empty": torch.zeros(0, 3), "one": torch.tensor(2.5), "yes": torch.tensor([True, False])}
    save_file(tensors, tmp_path / FILE, {"format": "pt"})
    with open_tensors(tmp_path / FILE) as file:
        assert file.stored.keys() == tensors.keys()
        for name, tensor in tensors.items():
            read = file.read(name)
            assert read.dtype == tensor.dtype
            assert torch.equal(read, tensor)


@pytest.mark.parametrize("left", [0, 4, 4096])
def test_a_file_cut_after_it_was_opened_is_a_reason(left: int, tmp_path: Path) -> None:
    save_file({"a": torch.ones(2000), "b": torch.ones(2000)}, tmp_path / FILE)
    with open_tensors(tmp_path / FILE) as file:
        os.truncate(tmp_path / FILE, left)
        with pytest.raises(SpecError, match="was cut short while it was read"):
            file.read("b")


def test_a_header_larger_than_any_is_not_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(SpecError, match="limit"), open_tensors(tmp_path / FILE):
        pass


def weights(runtime: TorchRuntime) -> np.ndarray:
    item = Item(
        card=runtime.card("model"),
        input=Tokens(ids=np.arange(3, 9)),
        selection=Selection(outputs=("weights",), layers=(0,)),
    )
    (answer,) = runtime.run([item]).answers
    assert isinstance(answer, Answer)
    return answer.tensors["weights"]


@pytest.mark.parametrize("family", ["bert", "modernbert"], ids=["own stack", "transformers"])
def test_a_file_written_over_or_cut_does_not_change_a_served_model(family: str, tmp_path: Path) -> None:
    tiny(family, changes=FOREIGN if family == "modernbert" else None).save_pretrained(tmp_path / "model")
    runtime = TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
    before = weights(runtime)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    with (tmp_path / "model" / FILE).open("r+b") as file:
        file.write(bytes((tmp_path / "model" / FILE).stat().st_size))
    assert np.array_equal(weights(runtime), before)
    os.truncate(tmp_path / "model" / FILE, 0)
    assert np.array_equal(weights(runtime), before)


def test_what_cannot_be_read_for_transformers_is_the_models_reason(tmp_path: Path) -> None:
    tiny("modernbert", changes=FOREIGN).save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / FILE)
    name = next(iter(tensors))
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    tensors["lm_head.weight"] = torch.ones(100, 100)  # as many bytes as are needed
    save_file(tensors, tmp_path / "model" / FILE, {"format": "pt"})
    with pytest.raises(SpecError, match="stored as F8_E4M3"):
        TorchRuntime(tmp_path, models=("model",), device="cpu", dtype="float32")
