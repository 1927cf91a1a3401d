import ctypes
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.device.allocator import Rest, keep_large_blocks
from models.folders.parameters import parameter_shapes
from models.spec import ModelSpec

SCRIPT = """
import resource, sys, torch
from models.device.allocator import keep_large_blocks
if sys.argv[1] == "keep":
    assert keep_large_blocks()
for _ in range(3):
    torch.empty(8 << 20).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.empty(8 << 20).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_blocks_are_reused_without_page_faults() -> None:
    assert page_faults("keep") * 3 < page_faults("give back")


def test_asking_twice_is_harmless() -> None:
    assert keep_large_blocks() == keep_large_blocks()


LOAD = """
import sys
from pathlib import Path
import torch
from models.runtime import TorchRuntime

def mib(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))
base = mib("VmHWM")
runtime = TorchRuntime(Path(sys.argv[1]), models=None, device="cpu", dtype="float32")
(card,) = runtime.cards()
weights = card.bytes_resident / 2**20
print((mib("VmHWM") - base) / weights, (mib("VmRSS") - base) / weights)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_model_is_held_once_and_its_load_takes_little_more(tmp_path: Path) -> None:
    folder = tmp_path / "layers"
    folder.mkdir()
    spec = ModelSpec(d_model=1024, heads=16, layers=12)  # 192 MiB
    (folder / "config.json").write_text(json.dumps(spec.to_config()))
    tensors = {name: np.full(shape, 1 / 1024, np.float32) for name, shape in parameter_shapes(spec).items()}
    save_file(tensors, folder / "model.safetensors")
    command = [sys.executable, "-c", LOAD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, after = map(float, done.stdout.split())
    assert peak < 1.8
    assert after < 1.4


def test_free_blocks_go_back_once_when_there_was_work_and_then_none_for_a_while() -> None:
    rest = Rest(5.0)
    assert not rest.due(100.0, served=0, busy=False)  # nothing was done yet
    assert not rest.due(101.0, served=1, busy=True)
    assert not rest.due(110.0, served=1, busy=True)  # still at it
    assert not rest.due(114.9, served=1, busy=False)
    assert rest.due(115.0, served=1, busy=False)
    assert not rest.due(200.0, served=1, busy=False)  # once
    assert not rest.due(201.0, served=2, busy=False)  # came and went between two looks
    assert not rest.due(205.9, served=2, busy=False)
    assert rest.due(206.0, served=2, busy=False)
