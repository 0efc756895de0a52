"""What late rows get where self-attention does not run for them: what it added half way, with a fitted gain and bias.

In the first blocks attention hardly depends on the scale: a third of the network shows rows what lies around them, and
half way that is known. Resampled, and corrected per channel in closed form, it stands for what those blocks would add
to the rows of a reduced scale. This is LESA's idea of a predictor fitted to a model, with two numbers a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.rows import resize_rows
from stagevar.engine.plan.channels import Channels
from stagevar.engine.plan.parts import PartRows, blocks
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.reads import Read

LEAD = 0.0, 1 / 3
"""The blocks whose self-attention is filled, as shares of the depth."""

RAMP = 0.25, 0.5
"""Speeds (1 - quality) from which the first block is filled, and all of these blocks: before that the dial leaves out
less than what a fill is wrong by."""

LEAST = 1e-12
"""Variance of a channel below which it gets no gain."""

DIGITS = 4
"""Decimals of the fitted numbers."""


def prepared(plan: Plan, source: int, channels: Mapping[int, Channels]) -> Plan:
    """A plan that keeps what fills need of scale ``source``, with their rules at later scales, as yet of no effect.

    Args:
        channels: by scale.
    """
    if plan[source].run != "full" or plan[source].tokens is not None or plan.pass_of(source)[-1] != source:
        return plan
    for k, own in channels.items():
        if source < k < len(plan) and plan[k].run == "full" and not plan[k].parts:
            rule = PartRows(0.0, ("attention",), LEAD, source=source, channels=own)
            plan = plan.replace([k], parts=(rule,), remember=(*plan[k].remember, Read("part", source, rule.sites)))
    return plan


def filled(plan: Plan, k: int, speed: float) -> Plan:
    """The plan with the fills of scale k at work, where they were prepared, in as many blocks as the speed allows."""
    low, high = RAMP
    share = min(1.0, (speed - low) / (high - low))
    if share <= 0 or not plan[k].parts:
        return plan
    rules = tuple(replace(rule, prune=1.0, layers=(0.0, LEAD[1] * share)) for rule in plan[k].parts)
    return plan.replace([k], parts=rules, remember=())


def released(plan: Plan, source: int) -> Plan:
    """The plan without the fills of a scale, which will not run whole."""
    late = [k for k in plan.executed if any(rule.source == source for rule in plan[k].parts)]
    return plan.replace(late, parts=(), remember=()) if late else plan


def read(numbers: Any, schedule: Schedule, depth: int) -> dict[int, Channels]:
    """Fills of a network of ``depth`` blocks as a fit for a schedule has them, by scale.

    Raises:
        KeyError, TypeError, ValueError: they are damaged.
    """
    found = {each["scale"]: Channels.of(each["gains"], each["biases"]) for each in numbers}
    if any(len(each.gains) != len(blocks(LEAD, depth)) for each in found.values()):
        raise ValueError(f"its fills are not of {len(blocks(LEAD, depth))} blocks")
    if len(found) < len(numbers) or not found.keys() <= set(range(len(schedule))):
        raise ValueError("its fills are not of scales of the schedule, each once")
    return found


class Learning:
    """Fits the fills while plain pictures are drawn: least squares per channel over all rows of the prompts' branch.

    Attributes:
        source: the scale whose increments stand for those of later ones.
    """

    def __init__(self, schedule: Schedule, depth: int, source: int) -> None:
        self.source, self._schedule, self._blocks = source, schedule, blocks(LEAD, depth)
        self._images = 0
        self._earlier: dict[int, Tensor] = {}
        self._sums: dict[tuple[int, int], Tensor] = {}

    def __call__(self, name: str, k: int, tensor: Tensor) -> None:
        """Observe a tensor of a pass, as a tap."""
        kind, _, site = name.partition(".")
        if kind == "begin":
            self._images = len(tensor)
        block, _, role = site.partition(".")
        if kind != "part" or role != "attention" or k < self.source or int(block) not in self._blocks:
            return
        grid = self._schedule[k]
        rows = tensor[: self._images, tensor.shape[1] - grid[0] * grid[1] :].float()
        if k == self.source:
            self._earlier[int(block)] = rows
            return
        x = resize_rows(self._earlier[int(block)], self._schedule[self.source], grid, "bilinear").flatten(0, 1).double()
        y = rows.flatten(0, 1).double()
        found = torch.stack([torch.ones_like(x).sum(0), x.sum(0), y.sum(0), (x * x).sum(0), (x * y).sum(0)])
        self._sums[k, int(block)] = self._sums.get((k, int(block)), torch.zeros_like(found)) + found

    def numbers(self) -> list[dict[str, Any]]:
        """The fills, as plain data."""
        found = []
        for k in sorted({k for k, _ in self._sums}):
            pairs = [_line(self._sums[k, block]) for block in self._blocks]
            gains, biases = ([_rounded(pair[i]) for pair in pairs] for i in (0, 1))
            found.append({"scale": k, "gains": gains, "biases": biases})
        return found


def _line(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and bias (C,) of y over x, of the sums of 1, x, y, x^2 and x y."""
    count, x, y, squares, products = sums
    variance = squares / count - (x / count) ** 2
    gain = torch.where(variance > LEAST, (products / count - x * y / count**2) / variance.clamp(min=LEAST), 0.0)
    return gain, (y - gain * x) / count


def _rounded(values: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]
