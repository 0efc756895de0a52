"""The oracle's score of a scenes model on held-out captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stagevar.errors import OptionError
from stagevar.pipeline import Pipeline
from stagevar.request import PerScale
from stagevar.scenes.captions import caption_suite
from stagevar.scenes.oracle import score_suite

MAX_CAPTIONS = 10_000


def score(
    pipeline: Pipeline,
    *,
    captions: int = 600,
    guidance: PerScale | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Draw held-out captions, the six categories in equal shares, and let the oracle read the pictures.

    Args:
        pipeline: a model of the scenes family.
        captions: how many pictures, one per caption; picture i has seed ``seed + i``.
        guidance: strength; the model's default if None.
        progress: told how many pictures are done.
        fields: further fields of ``Request``.

    Returns:
        ``overall`` (mean over categories of the strict share), ``relaxed`` (the same, shape identity ignored),
        ``categories``, ``relaxed_categories``, ``captions``, and what was run.

    Raises:
        OptionError: another family, or a number of captions out of range.
    """
    model = pipeline.model
    if model.family != "scenes":
        raise OptionError(f"the oracle reads pictures of the scenes family only, not of {model.name}")
    if not 1 <= captions <= MAX_CAPTIONS:
        raise OptionError(f"captions must lie between 1 and {MAX_CAPTIONS}, not {captions}")
    scenes = caption_suite(captions)
    pictures: list[np.ndarray[Any, Any]] = []
    for start in range(0, captions, batch_size):
        chosen = scenes[start : start + batch_size]
        result = pipeline(
            [scene.caption for scene in chosen],
            seed=[seed + start + i for i in range(len(chosen))],
            guidance_scale=guidance,
            batch_size=batch_size,
            **fields,
        )
        pictures.extend(np.asarray(image) for image in result.images)
        if progress is not None:
            progress(len(pictures))
    return {
        **score_suite(scenes, np.stack(pictures)),
        "model": model.name,
        "guidance": model.defaults.guidance if guidance is None else guidance,
        "seed": seed,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
