"""The contact sheet: pictures of several prompts, scale by scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from stagevar.saved import marked

MARK = "stagevar demo"
"""Text field of a PNG file that is the sheet of `stagevar demo`."""

MARGIN, LINE, LONGEST = 12, 22, 128
PAPER, INK = "white", "black"


def contact_sheet(prompts: Sequence[str], columns: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """One row of pictures per prompt below its text, one column per scale below its label."""
    small, large = ImageFont.load_default(12), ImageFont.load_default(15)
    cell_width, cell_height = _cell(columns[0][1][0].size)
    step_x, step_y = cell_width + MARGIN, LINE + cell_height + MARGIN
    sheet = Image.new("RGB", (MARGIN + len(columns) * step_x, MARGIN + LINE + len(prompts) * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, (label, images) in enumerate(columns):
        left = MARGIN + x * step_x
        draw.text((left, MARGIN), label, INK, small)
        for y, image in enumerate(images):
            enlarged = cell_width > image.width
            kind = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            sheet.paste(image.resize((cell_width, cell_height), kind), (left, MARGIN + 2 * LINE + y * step_y))
    for y, prompt in enumerate(prompts):
        draw.text((MARGIN, MARGIN + LINE + y * step_y), prompt, INK, large)
    return sheet


def fields(model: str) -> PngInfo:
    """Text fields of the sheet of `stagevar demo`."""
    found = PngInfo()
    found.add_itxt(MARK, model)
    return found


def is_demo(path: Path) -> bool:
    """Whether a file is a sheet that `stagevar demo` wrote."""
    return marked(path, MARK)


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which a picture is shown: a small one enlarged by a whole factor, a large one reduced."""
    longest = max(size)
    zoom = LONGEST // longest if longest <= LONGEST else LONGEST / longest
    return round(size[0] * zoom), round(size[1] * zoom)
