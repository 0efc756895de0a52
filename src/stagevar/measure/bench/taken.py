"""What was measured of one batch by one accelerator, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.plan.plan import Plan
from stagevar.measure.bench.draw import Drawn
from stagevar.measure.bench.features import features
from stagevar.measure.bench.peak import cache_bytes
from stagevar.measure.likeness.fidelity import band_ratio, psnr, ssim
from stagevar.measure.likeness.scorer import Scorer
from stagevar.measure.suites.suite import Question, Suite


@dataclass(frozen=True, slots=True)
class Taken:
    """One batch. Lists have an entry per picture.

    Attributes:
        network, total: seconds of all passes, and of the whole call.
        peak, cache: most bytes of memory, and of keys and values among them.
        milliseconds, rows: per scale, of all pictures.
        executed: scales that ran.
        flops: operations.
        likeness: to the plain run with the same noise: ``ssim``, ``psnr`` in dB, and others that were asked for.
        bands: energy of the frequency bands over the plain run's, lowest first.
        strict, relaxed: the reader's verdicts; empty where there is no reader.
        features: see ``bench.features``.
    """

    network: float
    total: float
    peak: int
    cache: int
    milliseconds: list[float]
    rows: list[int]
    executed: list[list[int]]
    flops: list[int]
    likeness: dict[str, list[float]]
    bands: list[list[float]]
    strict: list[bool]
    relaxed: list[bool]
    features: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def take(
    model: ScaleModel,
    drawn: Drawn,
    plain: Drawn,
    cost: Callable[[Plan], int],
    suite: Suite | None,
    questions: Sequence[Question],
    scorers: Mapping[str, Scorer],
) -> Taken:
    """Measure a batch against the plain run's of the same noise.

    Args:
        cost: operations of a plan for one picture.
        suite: reads the pictures; None if nobody can.
        questions: of the batch.
        scorers: of further likenesses by name.
    """
    pair = drawn.pictures, plain.pictures
    scales = drawn.trace.by_scale()
    verdicts = suite.judge(questions, drawn.pictures) if suite else []
    alike = {"ssim": ssim(*pair), "psnr": psnr(*pair)} | {name: scorer(*pair) for name, scorer in scorers.items()}
    return Taken(
        network=drawn.trace.network_milliseconds / 1e3,
        total=drawn.seconds,
        peak=drawn.peak,
        cache=cache_bytes(model, drawn.trace, drawn.plans),
        milliseconds=[row["milliseconds"] for row in scales],
        rows=[row["rows"] for row in scales],
        executed=[list(drawn.trace.executed(image)) for image in range(len(drawn.plans))],
        flops=list(map(cost, drawn.plans)),
        likeness={name: values.detach().float().cpu().tolist() for name, values in alike.items()},
        bands=band_ratio(*pair).tolist(),
        strict=[verdict.strict for verdict in verdicts],
        relaxed=[verdict.relaxed for verdict in verdicts],
        features=features(drawn.pictures),
    )
