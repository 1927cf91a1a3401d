import pytest

from models import linear, native, packed, plain


@pytest.fixture(params=["compiled", "torch"])
def short_attention_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test with compiled code, where there is such, and without."""
    if request.param == "torch":
        for module in (linear, packed, plain):
            monkeypatch.setattr(module, "native", lambda: None)
    elif native.native() is None:
        pytest.skip("Heed was installed without a C compiler, or not for this processor")
