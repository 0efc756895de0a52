"""Pictures on disk: names that tell what they show, and the contact sheet of the demo."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from stagevar import __version__
from stagevar.files import replacing

MARGIN, LINE, LONGEST = 12, 22, 128
PAPER, INK = "white", "black"


def write(folder: Path, image: Image.Image, prompt: str, seed: int, model: str) -> Path:
    """Save a picture as PNG under a free name, with what made it in the file's text fields.

    Raises:
        OutputError: it cannot be written; nothing is left of it.
    """
    fields = PngInfo()
    for key, value in {"prompt": prompt, "seed": seed, "model": model, "Software": f"stagevar {__version__}"}.items():
        fields.add_itxt(key, str(value))
    path = free_name(folder, f"{slug(prompt)}-{seed}")
    with replacing(path) as temporary:
        image.save(temporary, format="png", pnginfo=fields)
    return path


def slug(prompt: str, longest: int = 80) -> str:
    """A prompt as part of a file name: letters, digits and hyphens, at most ``longest`` bytes."""
    text = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    return text.encode()[:longest].decode(errors="ignore").rstrip("-") or "picture"


def free_name(folder: Path, stem: str) -> Path:
    """``stem.png``, or ``stem-2.png`` and so on if that is taken."""
    names = (folder / f"{stem}{'' if number == 1 else f'-{number}'}.png" for number in count(1))
    return next(path for path in names if not os.path.lexists(path))  # unlike Path.exists, never raises


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


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    """The size at which a picture is shown: a small one enlarged by a whole factor, a large one reduced."""
    longest = max(size)
    zoom = LONGEST // longest if longest <= LONGEST else LONGEST / longest
    return round(size[0] * zoom), round(size[1] * zoom)
