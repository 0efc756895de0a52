"""What one accelerator did over all captions, against the plain run of the same captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.plan.plan import Plan
from stagevar.measure.bench.draw import Drawn
from stagevar.measure.likeness.fidelity import band_ratio, psnr, ssim
from stagevar.measure.suites.categories import mean_of_categories, standard_error
from stagevar.measure.suites.suite import Question, Suite, Verdict


class Tally:
    """What one accelerator has drawn so far."""

    def __init__(self, suite: Suite | None, questions: Sequence[Question]) -> None:
        self.suite, self.questions = suite, questions
        self.network: list[float] = []
        self.total: list[float] = []
        self.closeness: dict[str, list[float]] = {"ssim": [], "psnr": []}
        self.bands: list[Tensor] = []
        self.verdicts: list[Verdict] = []
        self.executed: Counter[tuple[int, ...]] = Counter()
        self.plans: Counter[Plan] = Counter()
        self.rows = 0

    def add(self, drawn: Drawn, plain: Drawn) -> None:
        """Add a batch, and compare it with the plain run's batch of the same noise."""
        self.network.append(drawn.trace.network_milliseconds / 1e3)
        self.total.append(drawn.seconds)
        self.closeness["ssim"] += ssim(drawn.pictures, plain.pictures).tolist()
        self.closeness["psnr"] += psnr(drawn.pictures, plain.pictures).tolist()
        self.bands.append(band_ratio(drawn.pictures, plain.pictures))
        self.executed.update(drawn.trace.executed(image) for image in range(len(drawn.plans)))
        self.plans.update(drawn.plans)
        self.rows += sum(record.rows for record in drawn.trace.records)
        if self.suite is not None:
            done = len(self.verdicts)
            self.verdicts += self.suite.judge(self.questions[done : done + len(drawn.pictures)], drawn.pictures)

    def row(self, plain: Tally, cost: Callable[[Plan], int]) -> dict[str, Any]:
        """One row of a comparison, as ``bench.compare.compare`` describes it.

        Args:
            plain: tally of the plain run over the same batches.
            cost: operations of a plan for one picture.
        """
        pictures = self.plans.total()
        executed, most = self.executed.most_common(1)[0]
        strict, relaxed = ([float(getattr(v, kind)) for v in self.verdicts] for kind in ("strict", "relaxed"))
        gain = [own - float(v.strict) for own, v in zip(strict, plain.verdicts, strict=True)]
        ratios = [slow / fast for slow, fast in zip(plain.network, self.network, strict=True)]
        return {
            "network_seconds": sum(self.network),
            "total_seconds": sum(self.total),
            "speedup": median(ratios),
            "oracle": mean_of_categories(self.questions, strict),
            "relaxed": mean_of_categories(self.questions, relaxed),
            **{name: mean_of_categories(self.questions, values) for name, values in self.closeness.items()},
            **{f"{name}_error": standard_error(self.questions, values) for name, values in self.closeness.items()},
            "executed_scales": list(executed),
            "rows_processed": self.rows / pictures,
            "flops": sum(cost(plan) * count for plan, count in self.plans.items()) / pictures,
            "executed_share": most / pictures,
            "speedup_quartiles": _quartiles(ratios),
            "total_speedup": median(slow / fast for slow, fast in zip(plain.total, self.total, strict=True)),
            "network_batch": _spread(self.network),
            "total_batch": _spread(self.total),
            "bands": torch.cat(self.bands).median(0).values.tolist(),
            "oracle_difference": mean_of_categories(self.questions, gain),
            "oracle_difference_error": standard_error(self.questions, gain),
        }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and range of the batches' seconds."""
    return {"median": median(seconds), "min": min(seconds), "max": max(seconds)}


def _quartiles(values: Sequence[float]) -> list[float] | None:
    """First and third quartile; None of one value."""
    if len(values) == 1:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return [low, high]
