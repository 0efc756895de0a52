"""SkipVAR (arXiv 2506.08908): two numbers of a thumbnail say how many of the last scales a picture can do without.

Idea: pictures differ in how much their last scales add. Behind the last scale of at most half the final side a
thumbnail is decoded with and without that scale. How much the scale sharpened it, and the share of fine structure that
it has, go to a linear classifier that says how many scales to leave out. If none, a second one says on how many of them
the branch of the empty prompt is left out. Both were fitted so that a picture stays within a wanted SSIM of the plain
one.

Claimed: 1.81x on Infinity at a mean SSIM above 0.88.

Deviations from the released code, and why:

* Its numbers were fitted to Infinity-2B and have no licence. Here ``stagevar calibrate --accelerator skipvar`` fits
  them to any model and any size; those for the shipped model lie beside this file. A fit holds for one model, one
  schedule and one version, and others are refused.
* The scale and the counts follow the schedule: at most three scales, and no more than come behind the scale that
  decides. With the 13 scales of one megapixel it is the tenth, as published.
* Each picture of a batch decides for itself. The code takes batches of one.
* The code's labels are not published. Here a label is the largest count by which a picture still reaches the SSIM.
* Classifiers are softmax regressions with the penalty that the code's have, for six SSIMs and not three. Its decision
  trees are left out, as the code itself does not use them.
* Where a model ends guidance by itself, the branch that it leaves stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.accelerators.base import FILE, Accelerator, Claim, Facts, Reason, single_branch
from stagevar.accelerators.halfway import fit_file, fit_for, halfway, watched
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import Signal, Signals
from stagevar.engine.plan.watch import Numbers, Thumbnail
from stagevar.errors import OptionError

MOST = 3
"""Most scales that are left out or run one branch."""

TARGETS = (0.84, 0.86, 0.88, 0.9, 0.95, 0.98)
"""SSIMs to the plain run that numbers are fitted for."""

SHIPPED = Path(__file__).with_suffix(".json")

Classes = tuple[tuple[int, float, float, float], ...]
"""A linear classifier, of each class: scales, weights of the two numbers, a constant. The largest sum wins."""


@dataclass(frozen=True, slots=True)
class Judged(Thumbnail):
    """A thumbnail with the classifiers of what to skip and of where one branch is enough."""

    skip: Classes = ()
    single: Classes = ()

    def counts(self, numbers: Numbers) -> tuple[int, int]:
        """Scales at the end to skip, and to run one branch at; one of the two is 0."""
        skip = _winner(self.skip, numbers)
        return skip, 0 if skip else _winner(self.single, numbers)


@dataclass(frozen=True)
class SkipVAR(Accelerator):
    """A picture leaves out up to three of its last scales, or guidance there, as a thumbnail says half way.

    Combines with what decides rows or the cache: ``sparvar``, ``scalekv``, ``half_cache``.

    Attributes:
        target: wanted SSIM to the plain run, one of those that the fit has; 1 leaves all as it is.
        fit: file that ``stagevar calibrate --accelerator skipvar`` wrote; empty for that in the model's folder,
            or of the shipped model.
    """

    name: ClassVar[str] = "skipvar"
    owns: ClassVar[frozenset[str]] = frozenset({"run", "branch"})
    online: ClassVar[bool] = True
    signals: ClassVar[frozenset[Signal]] = frozenset()
    citation: ClassVar[str] = "SkipVAR, arXiv 2506.08908"
    source: ClassVar[str] = "fakerone-li/SkipVAR"
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim("Infinity-2B, 1024x1024", 1.81, "SSIM above .88 to the plain run"),
        Claim("Infinity-2B, 1024x1024, GenEval's prompts", 2.62, "GenEval .72, without the classifier"),
    )
    identity: ClassVar[Mapping[str, object] | None] = {"target": 1.0}
    target: float = 0.84
    fit: str = field(default="", metadata=FILE)

    def __post_init__(self) -> None:
        if not 0 < self.target <= 1:
            raise OptionError(f"skipvar: target must be an SSIM in (0, 1], not {self.target}")

    def plan(self, plan: Plan, schedule: Schedule, facts: Facts) -> Plan:
        if self.target == 1:
            return plan
        k, _ = self.looks(schedule)
        if plan[k].run == "skip":
            raise OptionError(f"{self}: scale {k}, which decides, does not run")
        return plan.replace([k], watch=(*plan[k].watch, self._judged(schedule, facts)))

    def revise(self, plan: Plan, at: Scale, signals: Signals) -> Plan:
        judged = watched(signals, Judged)
        late = [k for k in plan.executed if k > at.k]
        if judged is None or not late:
            return plan
        skip, single = judged.counts(signals.watched[judged])
        if skip:
            return plan.replace(late[-skip:], run="skip")
        return single_branch(plan, late[-single:][0], "cond") if single else plan

    def reasons(self, plan: Plan, at: Scale, signals: Signals) -> tuple[Reason, ...]:
        """The thumbnail's two numbers, and what the classifiers make of them."""
        judged = watched(signals, Judged)
        if judged is None:
            return ()
        sharpened, fine = signals.watched[judged][:2]
        skip, single = judged.counts(signals.watched[judged])
        numbers = Reason("thumbnail: sharpened by", sharpened), Reason("thumbnail: fine structure", fine)
        return *numbers, Reason("scales to skip", skip), Reason("scales of one branch", single)

    def _judged(self, schedule: Schedule, facts: Facts) -> Judged:
        """The classifiers that were fitted for this model, schedule and target."""
        fit = fit_for(self.name, self.name, self.fit, SHIPPED, schedule, facts)
        if f"{self.target:g}" not in fit.numbers:
            raise OptionError(f"{self}: the fit is for a target of {', '.join(fit.numbers)} or 1, not {self.target:g}")
        try:
            tables = fit.numbers[f"{self.target:g}"]
            return Judged(skip=_classes(tables["skip"]), single=_classes(tables["single"]))
        except (KeyError, TypeError, ValueError) as error:
            file = fit_file(self.name, self.fit, SHIPPED, facts)
            raise OptionError(f"{self}: {file} is a damaged fit: {type(error).__name__} {error}") from None

    # --- fitting ------------------------------------------------------------------------------------------------------

    def looks(self, schedule: Schedule) -> tuple[int, Thumbnail]:
        """The last scale of at most half the final side, and the thumbnail there."""
        return halfway(schedule, self), Thumbnail()

    def learns(self, schedule: Schedule, depth: int) -> None:
        """Nothing of the network."""

    def trials(self, schedule: Schedule, fit: str) -> tuple[str, ...]:
        """All that a picture may be told: to skip 1, 2, ... scales, then to run one branch at 1, 2, ..."""
        most = min(MOST, len(schedule) - 1 - self.looks(schedule)[0])
        return tuple(f"{name}({n})" for name in ("drop_last", "guidance_off") for n in range(1, most + 1))

    def fitted(self, seen: Tensor, alike: Tensor) -> Mapping[str, Any]:
        """Both classifiers per target."""
        numbers = {}
        for target in TARGETS:
            skip, single = (_largest(each >= target) for each in alike.chunk(2))
            whole = skip == 0
            numbers[f"{target:g}"] = {
                "skip": classifier(seen, skip),
                "single": classifier(seen[whole], single[whole]) if whole.any() else [[0, 0.0, 0.0, 0.0]],
            }
        return numbers


def _winner(classes: Classes, numbers: Numbers) -> int:
    return max(classes, key=lambda row: row[1] * numbers[0] + row[2] * numbers[1] + row[3])[0]


def _classes(rows: Sequence[Sequence[float]]) -> Classes:
    """A classifier as a file has it, checked."""
    read = tuple((int(count), float(a), float(b), float(c)) for count, a, b, c in rows)
    if not read or not all(0 <= row[0] <= MOST and all(map(math.isfinite, row)) for row in read):
        raise ValueError(f"a classifier takes classes of 0 to {MOST} scales and finite weights")
    return read


def _largest(reached: Tensor) -> Tensor:
    """(n,) from (counts, n): the largest count, from 1, that reaches the target; 0 if none does."""
    return (reached * torch.arange(1, len(reached) + 1)[:, None]).amax(0)


def classifier(seen: Tensor, label: Tensor) -> list[list[float]]:
    """Softmax regression of labels (n,) on numbers (n, 2) about their means and over their deviations: the sum of log
    losses plus half of the squared weights, as the code's are. Returns ``Classes`` for the numbers themselves."""
    counts, index = label.unique(return_inverse=True)
    x = seen.double()
    mean, scale = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    weight = torch.zeros(len(counts), 3, dtype=torch.float64, requires_grad=True)
    z = torch.cat([(x - mean) / scale, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    optimizer = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(z @ weight.T, index, reduction="sum") + weight[:, :2].square().sum() / 2
        value.backward()
        return value

    optimizer.step(loss)
    own = weight.detach()
    slope = own[:, :2] / scale
    rows = torch.cat([slope, own[:, 2:] - (slope @ mean)[:, None]], 1).tolist()
    return [[count, *(round(value, 4) for value in row)] for count, row in zip(counts.tolist(), rows, strict=True)]
