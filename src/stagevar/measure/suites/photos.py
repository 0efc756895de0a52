"""What the model of photographs is asked, and how they are read: captions and the reader it brings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stagevar.measure.suites.captions import Captions
from stagevar.measure.suites.dice import dice
from stagevar.measure.suites.suite import Question
from stagevar.photos.captions import SPLIT, Scene, parse
from stagevar.photos.judge import Verdict, judge, read
from stagevar.photos.reader import Reader


class Photos(Captions[Scene]):
    """The captions of the world of photographs, read by a network; the form is ``suite.Suite``."""

    split = SPLIT
    read = staticmethod(parse)

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def judge(self, questions: Sequence[Question], pictures: Tensor) -> list[Verdict]:
        readings = read(self.reader, pictures)
        return [judge(_scene(each), *reading) for each, reading in zip(questions, readings, strict=True)]

    def readings(self, questions: Sequence[Question], pictures: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Per entry, (n,) each: ``strict`` and ``relaxed`` (verdicts, 0 or 1), and how far the objects agree with those
        of the last entry, in number (``objects``) or by name (``agreement``)."""
        verdicts = [self.judge(questions, each) for each in pictures]
        names = [[[thing.name for thing in verdict.found] for verdict in here] for here in verdicts]
        return [
            {
                "strict": torch.tensor([float(verdict.strict) for verdict in here]),
                "relaxed": torch.tensor([float(verdict.relaxed) for verdict in here]),
                "objects": torch.tensor(
                    [dice([0] * len(seen), [0] * len(last)) for seen, last in zip(named, names[-1], strict=True)]
                ),
                "agreement": torch.tensor([dice(seen, last) for seen, last in zip(named, names[-1], strict=True)]),
            }
            for here, named in zip(verdicts, names, strict=True)
        ]


def _scene(question: Question) -> Scene:
    assert isinstance(question, Scene)
    return question
