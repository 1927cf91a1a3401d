import pytest
import torch

from models import linear, native, packed, plain
from tests.compiled import library


@pytest.fixture(params=["compiled", "torch"])
def short_attention_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test with compiled code, where there is such, and without."""
    fixed = {"onednn": 3.0, "torch": 2.0, "heed": 1.0}  # not by who happens to be faster
    monkeypatch.setattr(linear, "_fastest", {})
    monkeypatch.setattr(linear, "_best_seconds", lambda kernels, _: {name: fixed[name] for name in kernels})
    if request.param == "torch":
        for module in (linear, packed, plain):
            monkeypatch.setattr(module, "native", lambda: None)
    elif native.native() is None:
        pytest.skip("Heed was installed without a C compiler, or not for this processor")


@pytest.fixture(params=["as wide as there is", "AVX2"])
def ours(request: pytest.FixtureRequest) -> native.Native:
    """The compiled functions, for each kind of vector this processor has."""
    widest = library().heed_instructions()
    return native.Native(library(), widest if request.param != "AVX2" else 1)


@pytest.fixture
def threads():
    """Set how many threads the next calls have."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
