"""docs/attend.md and the README say what models/outputs.py says."""

from pathlib import Path

import pytest

from models.outputs import OUTPUTS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_output_is_documented_with_its_shape_and_meaning(name: str) -> None:
    output = OUTPUTS[name]
    row = f"| `{name}` | `{output.shape}` | {output.meaning} |"
    assert row in (ROOT / "docs" / "attend.md").read_text()


def test_readme_names_every_output() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in OUTPUTS if not name.startswith("top_k_") and f"`{name}`" not in readme]
    assert not missing
