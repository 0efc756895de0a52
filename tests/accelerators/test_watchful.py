"""An accelerator that watches is told its numbers, rehearsed with typical ones, and checked before anything runs."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest

from stagevar.accelerators.base import Accelerator
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.watch import AttentionEntropy, CodeEntropy, Thumbnail
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.measure.predict.rehearse import rehearse, signals_at
from stagevar.pipeline import Pipeline
from stagevar.request import Request

ENTROPY, CODES, THUMBNAIL = AttentionEntropy(0.5), CodeEntropy(), Thumbnail(16)


@dataclass(frozen=True)
class Watchful(Accelerator):
    """Ends guidance where codes are certain; with ``late`` it watches attention that few rows take part in."""

    name: ClassVar[str] = "watchful"
    owns: ClassVar[frozenset[str]] = frozenset({"branch"})
    online: ClassVar[bool] = True
    late: bool = False

    def plan(self, plan, schedule, facts):
        return plan.replace([2], watch=(CODES, THUMBNAIL))

    def revise(self, plan, at, signals):
        if at.k != 2 or signals.watched[CODES][0] > 0.7:
            return plan
        few = {"parts": (PartRows(0.5),), "watch": (ENTROPY,)} if self.late else {}
        return plan.replace(range(3, len(plan)), branch="cond", **few)


def test_an_accelerator_is_told_what_it_watches_and_rehearsed_with_typical_numbers():
    pipe = Pipeline(tiny("scenes"))
    prepared = pipe.prepare(Request("a red star", accelerator=Watchful()))
    at = Scale(prepared.schedule, 2)
    typical = signals_at(at.share, prepared.plan[2].watch).watched
    assert set(typical) == {CODES, THUMBNAIL} and len(typical[THUMBNAIL]) == 2
    assert signals_at(at.share).watched == {}
    single = [scale.branch for scale in rehearse(Watchful(), prepared.plan, prepared.schedule)]
    assert (single[-1] == "cond") == (typical[CODES][0] <= 0.7)
    *_, last = pipe.events([Request("a red star", accelerator=Watchful())], output_type="latent")
    assert last.plans[0][2].watch == (CODES, THUMBNAIL)


def test_a_revision_that_cannot_be_watched_is_refused_before_drawing():
    with pytest.raises(OptionError, match=r"watchful\(late=True\): .* in which fewer rows attend"):
        Pipeline(tiny("scenes")).prepare(Request("a red star", accelerator=Watchful(late=True)))


def test_signals_lead_back_to_those_of_earlier_scales():
    pipe, seen = Pipeline(tiny("scenes")), []

    @dataclass(frozen=True)
    class Growing(Watchful):
        def plan(self, plan, schedule, facts):
            return plan.replace([1], run="skip").replace(range(len(plan)), watch=(CODES,))

        def revise(self, plan, at, signals):
            chain, each = [], signals
            while each is not None:
                chain.append(each.watched[CODES][0])
                each = each.before
            seen.append(chain)
            return plan

    for _ in pipe.events([Request("a red star", accelerator=Growing()), Request("a ring", accelerator=Growing())]):
        pass
    count = len(pipe.model.schedule()) - 1
    drawn = seen[-2 * count :]
    for image in range(2):
        chains = drawn[image::2]
        assert [len(chain) for chain in chains] == list(range(1, count + 1))
        assert all(later[1:] == earlier for earlier, later in pairwise(chains))
    assert drawn[-1] != drawn[-2]
    assert seen[:count][-1] == [1.0] * count and seen[count : 2 * count][-1] == [0.0] * count
