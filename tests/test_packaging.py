"""What an installed copy holds: tools read configs and weights beside the packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from requirements import needs

tomllib = pytest.importorskip("tomllib", reason=needs("tomllib", "Python 3.10 has none"))

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("folder", ["rbsf", "tracker", "datasets", "eval", "tools", "configs", "weights"])
def test_every_folder_is_installed(folder: str) -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    files = [path for suffix in ("py", "yaml", "safetensors") for path in (ROOT / folder).rglob(f"*.{suffix}")]
    needed = {".".join(path.parent.relative_to(ROOT).parts) for path in files}
    assert needed <= set(listed)
