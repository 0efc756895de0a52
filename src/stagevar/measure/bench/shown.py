"""Pictures of a benchmark: each accelerator's, its difference to the plain run, and where rows ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from PIL.Image import open as open_image

from stagevar.files import replacing
from stagevar.measure.suites.suite import Question
from stagevar.measure.why.maps import difference, mean_share, shaded
from stagevar.measure.why.ran import RowsRan
from stagevar.pipeline import Pipeline
from stagevar.request import Request

KINDS = "picture", "difference", "rows"
LARGEST = 256
"""Longest side in pixels of what is kept."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures of one accelerator for one caption.

    Attributes:
        accelerator, caption: whose, and of what.
        images: one per entry of ``KINDS``.
    """

    accelerator: str
    caption: str
    images: tuple[Image, ...]


def show(
    pipeline: Pipeline,
    accelerators: Sequence[str],
    questions: Sequence[Question],
    folder: Path,
    conditions: Mapping[str, Any],
    **sampling: Any,
) -> list[Shown]:
    """Draw captions one by one, or read their pictures if an earlier run has drawn them.

    Args:
        accelerators: the plain run first.
        questions: a picture each; picture i has seed ``conditions["seed"] + i``.
        folder: where pictures are kept.
        conditions: what they depend on.
        sampling: other fields of ``Request``.
    """
    found = []
    for i, question in enumerate(questions):
        plain: Image | None = None
        for text in accelerators:
            digest = hashlib.sha256(json.dumps([conditions, text, question.caption, i]).encode()).hexdigest()[:16]
            paths = [folder / f"{digest}-{kind}.png" for kind in KINDS]
            if all(path.is_file() for path in paths):
                images = tuple(_read(path) for path in paths)
            else:
                request = Request(question.caption, seed=conditions["seed"] + i, accelerator=text, **sampling)
                images = _drawn(pipeline, request, plain)
                for path, image in zip(paths, images, strict=True):
                    with replacing(path) as temporary:
                        image.save(temporary, format="png")
            plain = plain or images[0]
            found.append(Shown(text, question.caption, images))
    return found


def _drawn(pipeline: Pipeline, request: Request, plain: Image | None) -> tuple[Image, ...]:
    watch = RowsRan(pipeline.model, pipeline.prepare(request).schedule)
    *_, last = pipeline.events([request], tap=watch)
    assert last.result is not None
    own: Image = last.result.images[0]
    own.thumbnail((LARGEST, LARGEST))
    return own, difference(plain or own, own), shaded(own, mean_share(watch.shares))


def _read(path: Path) -> Image:
    with open_image(path) as opened:
        return opened.convert("RGB")
