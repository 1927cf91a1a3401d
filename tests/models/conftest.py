import pytest

from models import linear, native, packed, plain


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
