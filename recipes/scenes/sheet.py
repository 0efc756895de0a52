"""A sheet of samples with the oracle's reading, to look at while training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from stagevar.families.scenes.network import Scenes
from stagevar.measure.suites.categories import scores
from stagevar.pipeline import Pipeline
from stagevar.scenes.captions import caption_suite
from stagevar.scenes.oracle import judge

COLUMNS = 12
ENLARGED = 2
GUIDANCE = 2.0
TEMPERATURES = (1.0, 1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3)


def sheet(model: Scenes, path: Path, rows: int = 2) -> dict[str, float]:
    """Draw captions of the suite onto one PNG; the share that the oracle accepts, strictly and relaxed."""
    scenes = caption_suite(rows * COLUMNS)
    model.eval()
    result = Pipeline(model)(
        [scene.caption for scene in scenes],
        seed=0,
        guidance_scale=GUIDANCE,
        temperature=TEMPERATURES,
        batch_size=COLUMNS,
    )
    pictures = np.stack([np.asarray(image) for image in result.images])
    grid = pictures.reshape(rows, COLUMNS, *pictures.shape[1:]).swapaxes(1, 2)
    height, width = rows * pictures.shape[1], COLUMNS * pictures.shape[2]
    image = Image.fromarray(grid.reshape(height, width, 3))
    image.resize((width * ENLARGED, height * ENLARGED), Image.Resampling.NEAREST).save(path)
    found = scores(scenes, [judge(scene, picture) for scene, picture in zip(scenes, pictures, strict=True)])
    return {"strict": round(found["overall"], 3), "relaxed": round(found["relaxed"], 3)}
