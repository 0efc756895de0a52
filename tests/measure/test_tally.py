"""What one accelerator did against the plain run, from batches made by hand: every figure, and its pairing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stagevar.engine.loop.trace import ScaleRecord, Trace
from stagevar.engine.plan.plan import Plan
from stagevar.families.tiny import tiny
from stagevar.measure.bench.draw import Drawn
from stagevar.measure.bench.features import diversity, features, self_frechet
from stagevar.measure.bench.taken import Taken, take
from stagevar.measure.bench.tally import Tally
from stagevar.measure.likeness.fidelity import psnr, ssim
from stagevar.measure.suites.suite import Prompt
from stagevar.scenes.oracle import Verdict

FULL, SHORT = Plan.uniform(3), Plan.uniform(3).replace([2], run="skip")
MODEL = tiny("scenes")
COST = {FULL: 100, SHORT: 40}


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def drawn(seconds: float, plans: Sequence[Plan], shown: Tensor | None = None, total: float = 0.0) -> Drawn:
    """A batch whose passes took ``seconds`` together, half at each of the first two scales."""
    trace, everybody = Trace("tiny", {}, {}, [{}] * len(plans)), tuple(range(len(plans)))
    for k in range(3):
        runs = tuple(i for i in everybody if plans[i][k].run == "full")
        for run, images in (("full", runs), ("skip", tuple(set(everybody) - set(runs)))):
            milliseconds = seconds * 500 if k < 2 and run == "full" else 0.0
            rows = 10 * len(images) if run == "full" else 0
            if images:
                trace.records.append(ScaleRecord(k, (1, 1), images, run, "both", rows, 0, milliseconds))
    return Drawn(pictures(len(plans)) if shown is None else shown, trace, total or 2 * seconds, tuple(plans))


class Reader:
    """Judges by what it is told, and notes which questions it was asked."""

    def __init__(self, *verdicts: tuple[bool, bool]) -> None:
        self.verdicts, self.asked = [Verdict(*pair, []) for pair in verdicts], []

    def judge(self, questions: Sequence[Any], pictures: Tensor) -> list[Verdict]:
        done = len(self.asked)
        self.asked += [question.caption for question in questions]
        return self.verdicts[done : done + len(pictures)]


def tally(*batches: Drawn, plain: Sequence[Drawn] = (), suite: Any = None, questions: Sequence[Prompt] = ()) -> Tally:
    count = sum(len(batch.plans) for batch in batches)
    asked, taken = list(questions) or [Prompt(str(i)) for i in range(count)], list[Taken]()
    for batch, beside in zip(batches, plain or batches, strict=True):
        first = sum(len(each.flops) for each in taken)
        part = asked[first : first + len(batch.plans)]
        taken.append(take(MODEL, batch, beside, COST.__getitem__, suite, part, {}))
    return Tally(asked, taken)


def test_speed_pairs_the_times_of_the_same_batch() -> None:
    plain = tally(*(drawn(seconds, [FULL]) for seconds in (10.0, 40.0, 9.0, 2.0, 6.0)))
    fast = tally(*(drawn(seconds, [FULL]) for seconds in (1.0, 10.0, 3.0, 2.0, 1.0)))
    row = fast.row(plain)  # ratios 10, 4, 3, 1, 6
    assert (row["speedup"], row["speedup_quartiles"], row["total_speedup"]) == (4, [3, 6], 4)
    assert (row["network_seconds"], row["total_seconds"]) == (17, 34)
    assert row["network_batch"] == {"median": 2, "min": 1, "max": 10}
    assert row["total_batch"] == {"median": 4, "min": 2, "max": 20}


def test_quartiles_lie_between_the_batches_and_one_batch_has_none() -> None:
    plain = tally(*(drawn(seconds, [FULL]) for seconds in (1.0, 2.0)))
    fast = tally(*(drawn(seconds, [FULL]) for seconds in (1.0, 1.0)))
    assert fast.row(plain)["speedup_quartiles"] == [1.25, 1.75]
    one = tally(drawn(1.0, [FULL]))
    assert one.row(one)["speedup_quartiles"] is None


def test_network_and_total_time_are_apart() -> None:
    plain, fast = tally(drawn(6.0, [FULL], total=8.0)), tally(drawn(2.0, [FULL], total=4.0))
    row = fast.row(plain)
    assert (row["speedup"], row["total_speedup"]) == (3, 2)


def test_likeness_is_a_mean_over_pictures_with_the_plain_run_as_reference() -> None:
    reference = pictures(3)
    shown = torch.cat([reference[:1], (reference[1:] + pictures(2, seed=1)) / 2])
    plain = [drawn(1.0, [FULL], reference[:1]), drawn(1.0, [FULL] * 2, reference[1:])]
    own = [drawn(1.0, [FULL], shown[:1]), drawn(1.0, [FULL] * 2, shown[1:])]
    asked = [Prompt(caption) for caption in "abc"]
    row = tally(*own, plain=plain, questions=asked).row(tally(*plain, questions=asked))
    assert row["ssim"] == pytest.approx(ssim(shown, reference).mean().item())
    assert row["psnr"] == pytest.approx(psnr(shown, reference).mean().item())
    assert row["ssim_error"] == pytest.approx(ssim(shown, reference).std().item() / 3**0.5, rel=1e-5)
    lowest, middle, _ = ssim(shown, reference).sort().values.tolist()
    assert row["ssim_low"] == pytest.approx(0.8 * lowest + 0.2 * middle)


def test_a_picture_with_half_the_amplitude_has_a_quarter_of_the_energy_in_every_band() -> None:
    reference = pictures(3)
    shown = torch.cat([reference[:1] / 2, reference[1:2] / 2, reference[2:]])
    row = tally(drawn(1.0, [FULL] * 3, shown), plain=[drawn(1.0, [FULL] * 3, reference)])
    assert row.row(row)["bands"] == pytest.approx([0.25] * 4), "the median over pictures"


def test_the_plan_of_most_pictures_is_reported_with_its_share_and_costs_are_means_per_picture() -> None:
    found = tally(drawn(1.0, [SHORT, FULL, SHORT]), drawn(1.0, [SHORT]))
    row = found.row(found)
    assert (row["executed_scales"], row["executed_share"]) == ([0, 1], 0.75)
    assert row["flops"] == (3 * 40 + 100) / 4
    assert row["rows_processed"] == (3 * 20 + 30) / 4


def test_every_picture_is_judged_by_its_own_question_and_paired_with_the_plain_run_s() -> None:
    asked = [Prompt(caption, category) for caption, category in zip("abcd", "xxyy", strict=True)]
    right, loose, wrong = (True, True), (False, True), (False, False)
    batches = drawn(1.0, [FULL] * 3), drawn(1.0, [FULL])
    own, usual = Reader(right, loose, wrong, right), Reader(right, right, right, wrong)
    mine, plain = (tally(*batches, suite=reader, questions=asked) for reader in (own, usual))
    row = mine.row(plain)
    assert own.asked == list("abcd")
    assert (row["oracle"], row["relaxed"]) == (0.5, 0.75)
    assert row["oracle_difference"] == -0.25  # categories: (0 - 1) / 2 and (-1 + 1) / 2
    assert row["oracle_difference_error"] == pytest.approx((0.5 / 2 + 2 / 2) ** 0.5 / 2)


def test_without_a_suite_nothing_is_judged() -> None:
    found = tally(drawn(1.0, [FULL]))
    row = found.row(found)
    assert row["oracle"] is row["relaxed"] is row["oracle_difference"] is row["oracle_difference_error"] is None


def test_what_was_taken_is_plain_data() -> None:
    [taken] = tally(drawn(1.0, [FULL, SHORT])).batches
    assert Taken(**json.loads(json.dumps(taken.to_dict()))) == taken
    assert taken.flops == [100, 40] and taken.executed == [[0, 1, 2], [0, 1]]


def test_figures_by_scale_are_means_of_a_picture() -> None:
    found = tally(drawn(1.0, [FULL, FULL]), drawn(3.0, [FULL]))
    row = found.row(found)
    assert row["milliseconds_by_scale"] == pytest.approx([2000 / 3, 2000 / 3, 0])
    assert row["rows_by_scale"] == [10, 10, 10] and row["flop_ratio"] == 1


def test_the_distance_of_a_set_to_itself_is_none_and_grows_with_the_change() -> None:
    plain = features(pictures(6))
    near, far = (features((pictures(6) + by).clamp(0, 1)) for by in (0.05, 0.3))
    assert self_frechet(plain, plain) == pytest.approx(0, abs=1e-6)
    one, other = self_frechet(near, plain), self_frechet(far, plain)
    assert one is not None and other is not None and 0 < one < other
    assert self_frechet(plain[:1], plain[:1]) is None


def test_the_distance_of_two_clouds_is_that_of_frechet() -> None:
    """Of independent numbers: squared difference of means plus that of deviations."""
    plain = [[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]]
    own = [[2 * x + 3, y] for x, y in plain]
    spread, deviation = 0.5**0.5, (2 / 3) ** 0.5 / 0.5**0.5
    assert self_frechet(own, plain) == pytest.approx((3 / spread) ** 2 + deviation**2)


def test_diversity_compares_pictures_of_one_caption_alone() -> None:
    plain = [[0.0], [2.0], [10.0], [12.0]]
    spread = 5.0990195
    assert diversity(["a", "a", "b", "b"], plain, plain) == pytest.approx(2 / spread)
    assert diversity(["a", "b", "c", "d"], plain, plain) is None
