"""docs/serving.md says what the server does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stagevar.pipeline import Pipeline
from stagevar.serve.limits import PATHS, Limits
from stagevar.serve.wire import Body, read

from .conftest import Address

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_its_python_runs(served: Address, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    space: dict[str, object] = {}
    try:
        exec(code.replace("http://127.0.0.1:8000", served.url), space)
    finally:
        space["client"].close()  # type: ignore[attr-defined]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12x12 ") and [line.split()[0] for line in lines[1:]] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]


def test_it_names_every_field_and_path() -> None:
    for name in (*Body.model_fields, *PATHS):
        assert re.search(rf"`[^`]*{name}[^`]*`", PAGE), name


def test_a_fifth_of_the_tokens_is_drawn_before_the_first_partial_picture(pipelines: dict[str, Pipeline]) -> None:
    for name in pipelines:
        for count in (1, 2, 3):
            body = Body(prompt="a", model=name, stream=True, partial_images=count)
            asked = read(body, pipelines, Limits())
            tokens = [h * w for h, w in asked.prepared[0].schedule]
            first = min(asked.previews)
            assert sum(tokens[: first + 1]) <= sum(tokens) / 5 or first == 0
            assert len(asked.previews) == min(count, len(tokens) - 1)
