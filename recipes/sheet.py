"""A sheet of samples and what their reader says, to look at while training."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stagevar.families.scenes.network import Scenes
from stagevar.measure.suites.categories import scores
from stagevar.measure.suites.known import suite_of
from stagevar.pipeline import Pipeline

COLUMNS = 12
ENLARGED = 2


def sheet(model: Scenes, path: Path, rows: int = 2) -> dict[str, float]:
    """Draw captions of the suite onto one PNG; the share that their reader accepts, strictly and relaxed."""
    suite = suite_of(model)
    assert suite is not None
    questions = suite.questions(rows * COLUMNS)
    model.eval()
    captions = [question.caption for question in questions]
    pictures = torch.stack(Pipeline(model)(captions, seed=0, batch_size=COLUMNS, output_type="pt").images)
    contact_sheet(pictures, path, COLUMNS)
    found = scores(questions, suite.judge(questions, pictures))
    return {"strict": round(found["overall"], 3), "relaxed": round(found["relaxed"], 3)}


def contact_sheet(pictures: Tensor, path: Path, columns: int) -> None:
    """Write pictures (n, 3, h, w) in [0, 1] in rows of ``columns``, enlarged."""
    grid = pictures.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    image = Image.fromarray((grid * 255).round().byte().numpy())
    image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.NEAREST).save(path)
