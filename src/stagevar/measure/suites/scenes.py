"""What the shipped model is asked, and how its pictures are read: captions and the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stagevar.measure.suites.captions import Captions
from stagevar.measure.suites.dice import dice
from stagevar.measure.suites.suite import Question
from stagevar.scenes.captions import SPLIT, Scene, parse
from stagevar.scenes.oracle import Found, Verdict, judge


class Scenes(Captions[Scene]):
    """The captions of the shipped model's world, read by its oracle; the form is ``suite.Suite``."""

    split = SPLIT
    read = staticmethod(parse)

    def judge(self, questions: Sequence[Question], pictures: Tensor) -> list[Verdict]:
        return [judge(_scene(each), pixels) for each, pixels in zip(questions, _pixels(pictures), strict=True)]

    def readings(self, questions: Sequence[Question], pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Per entry, (n,) each: ``strict`` and ``relaxed`` (verdicts, 0 or 1), and how far the objects agree with those
        of the last entry, by colour (``objects``) or by colour and shape (``agreement``)."""
        verdicts = [self.judge(questions, each) for each in pictures]
        final = [verdict.found for verdict in verdicts[-1]]
        return [
            {
                "strict": torch.tensor([float(verdict.strict) for verdict in here]),
                "relaxed": torch.tensor([float(verdict.relaxed) for verdict in here]),
                "objects": torch.tensor(
                    [agreement(seen.found, last, shapes=False) for seen, last in zip(here, final, strict=True)]
                ),
                "agreement": torch.tensor(
                    [agreement(seen.found, last) for seen, last in zip(here, final, strict=True)]
                ),
            }
            for here in verdicts
        ]


def _scene(question: Question) -> Scene:
    assert isinstance(question, Scene)
    return question


def agreement(found: Sequence[Found], final: Sequence[Found], *, shapes: bool = True) -> float:
    """Dice coefficient of two readings as bags of colours, with shapes or without."""
    one, other = ([(thing.color, thing.shape if shapes else None) for thing in seen] for seen in (found, final))
    return dice(one, other)


def _pixels(pictures: Tensor) -> npt.NDArray[np.uint8]:
    """(n, 3, h, w) in [0, 1] to uint8 arrays (n, h, w, 3)."""
    pixels: npt.NDArray[np.uint8] = (pictures * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return pixels
