"""Both runs are those of the pipeline, and the table below them says what their traces say."""

from __future__ import annotations

import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stagevar.errors import PromptError
from stagevar.families.tiny import tiny
from stagevar.measure.why import comparison as module
from stagevar.measure.why.comparison import Comparison
from stagevar.measure.why.maps import SHADE, STRONG, data_url, difference, mean_share, shaded
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.ui.front import done, drawing, nothing
from stagevar.ui.report import failure, plan_in_words, verdict
from stagevar.ui.table import table

PROMPT = "a red circle to the left of a blue square"


def compared(accelerator: str, repeating: float = 0.0) -> Comparison:
    """Both runs, repeated while that takes less than these seconds."""
    comparison = Comparison(Pipeline(tiny("scenes")), Request(PROMPT, seed=5, accelerator=accelerator))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REPEATING", repeating)
        for _ in comparison.draw():
            pass
    return comparison


@pytest.fixture(scope="module")
def drawn() -> Comparison:
    return compared("stagevar(0.0)")


def test_both_pictures_are_those_of_the_pipeline(drawn: Comparison) -> None:
    for run, accelerator in ((drawn.plain, "none"), (drawn.accelerated, drawn.request.accelerator)):
        alone = drawn.pipeline(PROMPT, seed=5, accelerator=accelerator)
        assert len(run.previews) == len(drawn.schedule)
        assert run.previews[-1].tobytes() == alone.images[0].tobytes()
        assert [r.rows for r in run.trace.records] == [r.rows for r in alone.trace.records]
        assert run.trace.pictures == alone.trace.pictures


def test_every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEATING", 0.0)
    comparison = Comparison(Pipeline(tiny("scenes")), Request(PROMPT, accelerator="drop_last"))
    told = list(comparison.draw())
    scales = len(comparison.schedule)
    assert told[0] == f"plain run: scale 1 of {scales}, 1x1 tokens"
    assert [step for step in told if f"scale {scales} of {scales}" in step] == [
        f"{run} run: scale {scales} of {scales}, {'x'.join(map(str, comparison.schedule[-1]))} tokens"
        for run in ("plain", "accelerated")
    ]


def test_what_cannot_be_drawn_is_found_before_a_scale_runs() -> None:
    comparison = Comparison(Pipeline(tiny("scenes")), Request("an elephant", accelerator="none"))
    with pytest.raises(PromptError):
        next(comparison.draw())


def test_quick_runs_are_repeated_and_the_first_does_not_count() -> None:
    comparison = compared("drop_last", 1e9)
    for run in (comparison.plain, comparison.accelerated):
        assert len(run.traces) == 1 + module.MOST_REPEATS
        times = [trace.network_milliseconds for trace in run.traces[1:]]
        assert run.trace.network_milliseconds == sorted(times)[(len(times) - 1) // 2]
    assert f"(median of {module.MOST_REPEATS}, " in verdict(comparison)


def test_slow_runs_are_not_repeated() -> None:
    comparison = compared("none")
    assert len(comparison.plain.traces) == 1 and comparison.plain.trace is comparison.plain.traces[0]
    assert "(one run)" in verdict(comparison)


def test_operations_are_those_of_the_plan_that_ran(drawn: Comparison) -> None:
    assert drawn.fewer_operations > 1
    assert compared("none").fewer_operations == 1
    assert "SSIM 1.000" in verdict(compared("none"))


def rows(html: str) -> dict[str, str]:
    """The table's rows by their names."""
    found = re.findall(r'<tr><th scope="row">(.*?)<small>.*?</small></th>(.*?)</tr>', html)
    return dict(found)


def test_the_table_has_a_column_per_scale_from_the_start() -> None:
    comparison = Comparison(Pipeline(tiny("scenes")), Request(PROMPT, accelerator="stagevar"))
    scales, steps = len(comparison.schedule), comparison.draw()
    empty = rows(table(comparison))
    assert all(row.count("<td") == scales for name, row in empty.items() if name != "stage")
    assert empty["plain"].count("<img") == 0
    for seen in range(1, scales + 1):
        next(steps)
        assert rows(table(comparison))["plain"].count("<img") == seen


def test_the_table_says_what_the_traces_say(drawn: Comparison) -> None:
    found = rows(table(drawn))
    numbers = [int(cell) for cell in re.findall(r"<(?:span|b)>(\d+)</(?:span|b)>", found["token rows"])]
    plain, own = (run.trace.by_scale() for run in (drawn.plain, drawn.accelerated))
    assert numbers == [row["rows"] for pair in zip(plain, own, strict=True) for row in pair]
    heights = [float(height) for height in re.findall(r"height:([\d.]+)%", found["token rows"])]
    assert max(heights) == 100 and heights[-2] == 100 and heights[-1] < 100
    spans = [int(span) for span in re.findall(r'colspan="(\d+)"', found["stage"])]
    assert sum(spans) == len(drawn.schedule)


def test_a_scale_that_is_left_out_is_not_run_in_the_table() -> None:
    found = rows(table(compared("drop_last(2)")))["rows that ran"]
    assert found.count("not run") == 2 and found.endswith("not run</td>")


def test_words_reach_the_page_as_text() -> None:
    assert failure("<script>alert(1)</script>") == (
        '<p class="error" role="alert">&lt;script&gt;alert(1)&lt;/script&gt;</p>'
    )
    comparison = compared("none")
    comparison.request = replace(comparison.request, accelerator="<b>")  # nothing that a user typed is markup
    with pytest.raises(Exception, match="cannot read accelerator"):
        verdict(comparison)


def test_the_plan_in_words_has_a_line_per_stretch(drawn: Comparison) -> None:
    said = plan_in_words(drawn)
    assert said.count("<li") >= 2 and "add no codes" in said


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (4, 2)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_the_difference_is_dark_where_pictures_agree_and_bright_where_they_do_not() -> None:
    one, other = flat((10, 10, 10)), flat((10, 10, 10))
    other.putpixel((3, 1), (90, 90, 90))
    shown = np.asarray(difference(one, other))
    assert tuple(shown[1, 3]) == STRONG and len({tuple(pixel) for pixel in shown.reshape(-1, 3)[:-1]}) == 1


def test_shading_leaves_what_ran_and_darkens_what_did_not() -> None:
    shown = np.asarray(shaded(flat((200, 100, 100)), torch.tensor([[1.0, 0.0]])))
    grey = np.asarray(flat((200, 100, 100)).convert("L"))[0, 0]
    assert tuple(shown[0, 0]) == (200, 100, 100) and (shown[:, 2:] == round(SHADE * grey)).all()


def test_mean_shares_are_weighted_by_tokens() -> None:
    mean = mean_share([torch.ones(1, 1), torch.tensor([[1.0, 0.0], [0.0, 0.0]])])
    assert mean.flatten().tolist() == pytest.approx([1.0, 0.2, 0.2, 0.2])


def test_pictures_reach_the_page_as_they_are_and_large_ones_reduced() -> None:
    for image, side, size in ((flat((1, 2, 3), (64, 48)), 96, (64, 48)), (flat((1, 2, 3), (600, 400)), 96, (96, 64))):
        kind, text = data_url(image, side).split(",")
        read = Image.open(BytesIO(b64decode(text)))
        assert kind == "data:image/png;base64" and read.size == size and read.getpixel((0, 0)) == (1, 2, 3)


def test_the_right_picture_is_the_plain_one_until_the_accelerated_run_has_begun() -> None:
    comparison = Comparison(Pipeline(tiny("scenes")), Request(PROMPT, accelerator="drop_last"))
    for told in comparison.draw():
        left, right = re.findall(r'src="([^"]+)"', drawing(comparison))
        assert (left == right) == told.startswith("plain")
        if not told.startswith("plain"):
            break


def test_the_finished_front_has_both_pictures_their_difference_and_where_rows_ran(drawn: Comparison) -> None:
    names = re.findall(r'alt="([^"]+)"', done(drawn))
    assert names == ["plain run", "accelerated run", "difference", "rows that ran"]
    assert "<img" not in nothing()


def test_a_comparison_can_be_left_at_any_scale(drawn: Any) -> None:
    steps = Comparison(drawn.pipeline, drawn.request).draw()
    next(steps)
    steps.close()
    assert drawn.pipeline(PROMPT, seed=5).images[0].tobytes() == drawn.plain.previews[-1].tobytes()
