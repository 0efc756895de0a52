"""What one accelerator did over all captions, against the plain run of the same captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median, quantiles
from typing import Any

from stagevar.measure.bench.features import diversity, self_frechet
from stagevar.measure.bench.taken import Taken
from stagevar.measure.study.curves import LOW, quantile
from stagevar.measure.suites.categories import mean_of_categories, standard_error
from stagevar.measure.suites.suite import Question


class Tally:
    """The batches of one accelerator, in order."""

    def __init__(self, questions: Sequence[Question], batches: Sequence[Taken]) -> None:
        self.questions, self.batches = questions, batches

    def row(self, plain: Tally) -> dict[str, Any]:
        """One row of a comparison, as ``bench.compare.compare`` describes it.

        Args:
            plain: tally of the plain run over the same batches.
        """
        network, total = ([getattr(each, name) for each in self.batches] for name in ("network", "total"))
        pairs = list(zip(plain.batches, self.batches, strict=True))
        ratios = [slow.network / fast.network for slow, fast in pairs]
        executed = Counter(map(tuple, self._all("executed")))
        pictures, (most, count) = executed.total(), executed.most_common(1)[0]
        strict, relaxed = ([float(value) for value in self._all(kind)] for kind in ("strict", "relaxed"))
        gain = [own - float(usual) for own, usual in zip(strict, plain._all("strict"), strict=True)]
        alike = {name: [v for each in self.batches for v in each.likeness[name]] for name in self.batches[0].likeness}
        flops = fmean(self._all("flops"))
        own, usual = self._all("features"), plain._all("features")
        captions = [question.caption for question in self.questions[:pictures]]
        return {
            "network_seconds": sum(network),
            "total_seconds": sum(total),
            "speedup": median(ratios),
            "oracle": mean_of_categories(self.questions, strict),
            "relaxed": mean_of_categories(self.questions, relaxed),
            **{name: mean_of_categories(self.questions, values) for name, values in alike.items()},
            **{f"{name}_error": standard_error(self.questions, values) for name, values in alike.items()},
            "ssim_low": quantile(alike["ssim"], LOW),
            "executed_scales": list(most),
            "rows_processed": sum(self._by_scale("rows", pictures)),
            "flops": flops,
            "flop_ratio": fmean(plain._all("flops")) / flops,
            "executed_share": count / pictures,
            "speedup_quartiles": _quartiles(ratios),
            "total_speedup": median(
                slow.total / fast.total for slow, fast in zip(plain.batches, self.batches, strict=True)
            ),
            "network_batch": _spread(network),
            "network_quartiles": _quartiles(network),
            "total_batch": _spread(total),
            "bands": [median(band) for band in zip(*self._all("bands"), strict=True)],
            "oracle_difference": mean_of_categories(self.questions, gain),
            "oracle_difference_error": standard_error(self.questions, gain),
            "milliseconds_by_scale": self._by_scale("milliseconds", pictures),
            "rows_by_scale": self._by_scale("rows", pictures),
            "peak_bytes": max(each.peak for each in self.batches),
            "cache_bytes": max(each.cache for each in self.batches),
            "self_frechet": self_frechet(own, usual),
            "diversity": diversity(captions, own, usual),
        }

    def _all(self, name: str) -> list[Any]:
        """A list of every batch, one after another."""
        return [value for each in self.batches for value in getattr(each, name)]

    def _by_scale(self, name: str, pictures: int) -> list[float]:
        """Per scale the mean of a picture."""
        return [sum(values) / pictures for values in zip(*(getattr(each, name) for each in self.batches), strict=True)]


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and range of the batches' seconds."""
    return {"median": median(seconds), "min": min(seconds), "max": max(seconds)}


def _quartiles(values: Sequence[float]) -> list[float] | None:
    """First and third quartile; None of one value."""
    if len(values) == 1:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return [low, high]
