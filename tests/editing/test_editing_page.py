"""What docs/editing.md shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "editing.md"


@pytest.mark.slow
def test_the_python_of_the_page_runs_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(PAGE.parents[1] / "models")
    blocks, names = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S), {}
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "editing.md", "exec"), names)
    assert np.array_equal(np.asarray(names["again"].images[0]), np.asarray(names["result"].images[0]))
    assert names["found"][0].nats > names["found"][1].nats
    assert (
        names["seen"]["logits", 9].shape == (1, 1024, 512)
        and Path("reconstruction.png").exists()
        and Path("clean.png").exists()
    )
