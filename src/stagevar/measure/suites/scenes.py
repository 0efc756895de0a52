"""What the shipped model is asked, and how its pictures are read: captions and the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stagevar.errors import PromptError
from stagevar.scenes.captions import Scene, caption_suite, parse
from stagevar.scenes.oracle import Found, judge


def scenes_of(captions: Sequence[str]) -> list[Scene]:
    """What captions of the scenes world mean.

    Raises:
        PromptError: one that the oracle could not judge.
    """
    try:
        return [parse(caption) for caption in captions]
    except ValueError as error:
        raise PromptError(str(error)) from None


def readings(scenes: Sequence[Scene], pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """The oracle's reading of the same n pictures after every scale, (n, 3, h, w) in [0, 1] each.

    Returns:
        Per scale, (n,) each: ``strict`` and ``relaxed`` (verdicts, 0 or 1), and how far the objects agree with those
        of the last picture, by colour (``objects``) or by colour and shape (``agreement``).
    """
    verdicts = [
        [judge(scene, pixels) for scene, pixels in zip(scenes, _pixels(each), strict=True)] for each in pictures
    ]
    final = [verdict.found for verdict in verdicts[-1]]
    return [
        {
            "strict": torch.tensor([float(verdict.strict) for verdict in here]),
            "relaxed": torch.tensor([float(verdict.relaxed) for verdict in here]),
            "objects": torch.tensor(
                [agreement(seen.found, last, shapes=False) for seen, last in zip(here, final, strict=True)]
            ),
            "agreement": torch.tensor([agreement(seen.found, last) for seen, last in zip(here, final, strict=True)]),
        }
        for here in verdicts
    ]


def agreement(found: Sequence[Found], final: Sequence[Found], *, shapes: bool = True) -> float:
    """Dice coefficient of two readings as bags of colours, with shapes or without: 1 if both name the same objects,
    or none."""
    if not found and not final:
        return 1.0
    one, other = (Counter((thing.color, thing.shape if shapes else None) for thing in seen) for seen in (found, final))
    return 2 * (one & other).total() / (len(found) + len(final))


def _pixels(pictures: Tensor) -> npt.NDArray[np.uint8]:
    """(n, 3, h, w) in [0, 1] to uint8 arrays (n, h, w, 3)."""
    pixels: npt.NDArray[np.uint8] = (pictures * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def default_prompts(count: int, seed: int = 0) -> list[str]:
    """Held-out captions of the scenes world, the categories in turn. Any text-to-image model can draw them."""
    return [scene.caption for scene in caption_suite(count, seed)]
