"""Floating-point operations of a plan, from shapes alone: a model on the meta device will do.

Matrix products and convolutions are counted, a multiply-add as two operations; element-wise work, the text encoder and
the picture tokenizer are not, but for thumbnails that a plan watches. All numbers are for one image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Grid, Scale, Schedule, scales
from stagevar.engine.grids.rows import Role
from stagevar.engine.loop.places import row_places
from stagevar.engine.loop.segments import segments
from stagevar.engine.plan.correct import Earlier
from stagevar.engine.plan.look import Look, Places, count, joined, pattern_at
from stagevar.engine.plan.memory import LAST, Memory
from stagevar.engine.plan.parts import Rows, rule_at
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.reads import Grouping, Read
from stagevar.engine.plan.tokens import TokenContext, Tokens
from stagevar.engine.plan.watch import AttentionEntropy, Seen, Watch
from stagevar.measure.predict.shapes import part_shapes, row_flops, weights


@dataclass(frozen=True, slots=True)
class ScaleFlops:
    """Operations of one scale.

    Attributes:
        scale: index of the scale.
        grid: its height and width in tokens.
        rows: token rows that go through the network over all branches, a mean over its blocks.
        share: rows processed relative to all rows of the branches that run.
        embed: input of the first block.
        linear: linear layers of the blocks.
        attention: self-attention over cache and new rows, and its entropy where that is watched.
        cross: attention to the text, and to a picture that is restored.
        tokens: reducing rows and restoring them.
        head: scores of the codes, and their correction.
        finish: work behind the head that only some families have (STAR's second stage, HART's residual head).
        watch: pictures decoded for what the plan watches.
    """

    scale: int
    grid: Grid
    rows: int = 0
    share: float = 0.0
    embed: int = 0
    linear: int = 0
    attention: int = 0
    cross: int = 0
    tokens: int = 0
    head: int = 0
    finish: int = 0
    watch: int = 0

    @property
    def total(self) -> int:
        network = self.embed + self.linear + self.attention + self.cross + self.tokens + self.head
        return network + self.finish + self.watch


Reductions = dict[tuple[int, int, Tokens | None, tuple[Read, ...]], tuple[int, int]]
"""Rows and operations of a reduction by scale, group, tokens and maps read."""


def plan_flops(model: ScaleModel, schedule: Schedule, plan: Plan, text_length: int) -> list[ScaleFlops]:
    """Operations of each scale for one image.

    Args:
        model: of any family, on any device.
        schedule: grids of the scales.
        plan: as long as the schedule.
        text_length: keys of cross-attention.
    """
    counted = _Count(model, schedule, plan, text_length, {})
    return [counted.scale(k) for k in range(len(schedule))]


def operations(model: ScaleModel, schedule: Schedule, text_length: int) -> Callable[[Plan], int]:
    """A function from a plan to the sum of its ``plan_flops``. It keeps its results, as most pictures share plans, and
    those of reducing rows, as many plans share them."""
    reductions: Reductions = {}

    @cache
    def total(plan: Plan) -> int:
        counted = _Count(model, schedule, plan, text_length, reductions)
        return sum(counted.scale(k).total for k in range(len(schedule)))

    return total


def condition_flops(model: ScaleModel, text_length: int) -> int:
    """Operations spent once per image, on the prompt and the null text: the text's keys and values, the vectors of
    adaptive norms, and the view of a picture that is restored."""
    parts = [part for block in model.layers for part in part_shapes(block)]
    shared = sum(weights(module) for name, module in model.named_children() if name == "modulation")
    once = sum(part.once_weights for part in parts) + shared
    return 2 * 2 * (sum(part.text_weights for part in parts) * text_length + once) + _view(model)


def _view(model: ScaleModel) -> int:
    """Operations of looking at a picture that is restored."""
    if not model.restores:
        return 0
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
        given = torch.empty(1, 3, *model.picture_size(model.schedule()), device=model.device)
        model.seeing(Condition(given, given), given)
    return counter.get_total_flops()


class _Count:
    """Counts a plan's operations scale by scale, in order: what each layer's cache holds grows on the way."""

    def __init__(
        self, model: ScaleModel, schedule: Schedule, plan: Plan, text_length: int, reductions: Reductions
    ) -> None:
        self.model, self.schedule, self.plan, self.text_length = model, schedule, plan, text_length
        self.reductions = reductions
        self.layers = [part_shapes(block) for block in model.layers]
        self.cached: list[Places] = [()] * model.depth
        self.sequence = tuple(model.rows(at) for at in scales(schedule))
        self.width = self.layers[0][0].width
        self.latent = torch.empty_like(model.empty_latent(1, schedule), device="meta")
        head = model.get_submodule("head")
        self.head_row = weights(head)
        self.codes = [linear.out_features for linear in head.modules() if isinstance(linear, nn.Linear)][-1]
        self.head_once = sum(weights(part) for name, part in head.named_modules() if name == "modulation")
        embeddings = [parameter for name in model.embedding for parameter in model.get_submodule(name).parameters()]
        self.embed_row = sum(parameter.numel() for parameter in embeddings if parameter.dim() > 1)

    def scale(self, k: int) -> ScaleFlops:
        """Operations of scale k, after those before it."""
        here, at = self.plan[k], Scale(self.schedule, k)
        tokens, ahead = at.tokens, self.model.rows(at) - at.tokens
        if here.run == "skip":
            return ScaleFlops(k, at.grid)
        branches = 2 if here.branch == "both" else 1
        processed, linear, attention, cross, reducing, rows = 0, 0, 0, 0, 0, tokens
        for group, layers in self._segments(k):
            rows = tokens
            if group is not None:
                key = k, group, here.tokens, self.plan.reads[k]
                if key not in self.reductions:
                    self.reductions[key] = self._reduction(k, group)
                rows, overhead = self.reductions[key]
                reducing += overhead
            for layer in layers:
                for part in self.layers[layer]:
                    run, aligned = self._rows(k, layer, part.role, rows)
                    run += ahead
                    aligned &= group is None or here.tokens is None or here.tokens.aligned
                    processed += run
                    copies = 1 if part.shared and aligned else branches
                    linear += 2 * run * copies * part.weights
                    if part.role == "attention" and run:
                        products, votes = self._attention(k, layer, run, Rows(ahead, at.grid), run == tokens + ahead)
                        attention += 2 * products * part.width
                        linear += 2 * votes * branches * part.query_weights
                    if part.role == "cross":
                        cross += 4 * run * (self.text_length + part.seen) * copies * part.width
        read = rows if here.tokens is not None and here.tokens.final else tokens
        finishing = self.model.finishing(at)
        return ScaleFlops(
            k,
            at.grid,
            rows=round(branches * processed / (self.model.depth * len(self.layers[0]))),
            share=processed / (self.model.depth * len(self.layers[0]) * (tokens + ahead)),
            embed=2 * tokens * self.embed_row if k and here.run == "full" else 0,
            linear=linear,
            attention=branches * attention,
            cross=cross,
            tokens=branches * reducing,
            head=branches * 2 * (read * (self.head_row - self.head_once) + self.head_once) + self._correction(k),
            finish=branches * sum(n * (read + more) * row_flops(module, read + more) for module, n, more in finishing),
            watch=sum(self._decoded(watch, at) for watch in here.watch if watch.place == "picture"),
        )

    def _segments(self, k: int) -> Iterator[tuple[int | None, range]]:
        """The groups of blocks with the index of those that reduce their rows; none if the network does not run."""
        here = self.plan[k]
        if here.run == "full":
            for part in segments(self.model, here.tokens):
                yield part.group if part.reducible else None, part.layers

    def _rows(self, k: int, layer: int, role: Role, rows: int) -> tuple[int, bool]:
        """Rows of ``rows`` that a part processes, and whether both branches process the same."""
        rule = rule_at(self.plan[k].parts, layer, role, self.model.depth)
        count = rows if rule is None else rule.count(rows)
        return count, rule is None or rule.aligned or count == rows

    def _attention(self, k: int, layer: int, run: int, rows: Rows, whole: bool) -> tuple[int, int]:
        """Products of two vectors that a head takes in self-attention of ``run`` rows, which are all of the scale or
        not, and in dropping what the plan drops of the cache; and rows whose queries are made for that."""
        here, at, model = self.plan[k], Scale(self.schedule, k), self.model
        queries: Places = torch.empty(1, 1, run, device="meta", dtype=torch.long)
        if whole:
            queries = row_places(rows, at.grid, sum(self.sequence[:k]), None, torch.device("meta"))
        keys = joined(self.cached[layer], queries) if model.causal else queries
        look = Look(at, layer, model.depth, self.sequence, queries, keys, Memory())
        pattern = pattern_at(here.attend, layer, model.depth)
        products = 2 * run * count(keys) if pattern is None else pattern.products(look)
        looks = [watch for watch in here.watch if isinstance(watch, AttentionEntropy)]
        products += sum(at.tokens * count(keys) for watch in looks if watch.layer(model.depth) == layer)
        if not model.causal or here.cache == "none":
            return products, 0
        self.cached[layer] = keys
        if isinstance(here.cache, str) or k == self.plan.executed[-1]:
            return products, 0
        capacity = here.cache.capacity(at, self.sequence, layer)
        if capacity >= count(keys):
            return products, 0
        self.cached[layer] = torch.empty(1, 1, capacity, device="meta", dtype=torch.long)
        votes = len(here.cache.voters(look))
        return products + (count(keys) if votes else 0), votes

    def _correction(self, k: int) -> int:
        """Operations of correcting the logits of a scale."""
        rule, source = (
            self.plan[k].correct,
            next((read.scale for read in self.plan.reads[k] if read.kind == "logits"), -1),
        )
        if rule is None:
            return 0
        own, other = (Scale(self.schedule, each) for each in (k, source))
        logits, earlier = (torch.empty(1, each.tokens, self.codes, device="meta") for each in (own, other))
        with FlopCounterMode(display=False) as counter:
            rule(logits, Earlier(earlier, other, own, None))
        return counter.get_total_flops()

    def _reduction(self, k: int, group: int) -> tuple[int, int]:
        """Rows that a group processes, and the operations of reducing to them and restoring from them."""
        tokens, at = self.plan[k].tokens, Scale(self.schedule, k)
        assert tokens is not None
        x = torch.empty(1, at.tokens, self.width, device="meta")
        context = TokenContext(
            scale=k,
            grid=at.grid,
            group=group,
            groups=self.model.groups,
            rope=None,
            seeds=[0],
            latent=self.latent,
            change=self.latent,
            memory=self._memory(k, group),
            source=self._source(k),
        )
        with FlopCounterMode(display=False, custom_mapping=SOLVING) as counter, torch.no_grad():
            reduced = tokens.reduce(x, context)
            if not tokens.final:
                tokens.restore(x, reduced.x, reduced, context)
        return reduced.x.shape[1], counter.get_total_flops()

    def _decoded(self, watch: Watch, at: Scale) -> int:
        """Operations of the numbers that are made of the latent."""
        with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter, torch.no_grad():
            latent = torch.empty(self.latent.shape, device=self.model.device)
            watch.numbers(Seen(at, None, latent, latent, self.model.decode, self.model.picture_size))
        return counter.get_total_flops()

    def _source(self, k: int) -> int:
        """The scale whose maps a restoration at scale k reads."""
        return next((read.scale for read in self.plan.reads[k] if isinstance(read.sites, Grouping | Watch)), -1)

    def _memory(self, k: int, group: int) -> Memory:
        """The maps that a restoration reads."""
        memory = Memory()
        for read in self.plan.reads[k]:
            source = Scale(self.schedule, read.scale)
            site, width = (read.sites, 1) if isinstance(read.sites, Watch) else (group, self.width)
            site, width = (LAST, self.codes) if read.kind == "logits" else (site, width)
            rows = torch.empty(1, source.tokens, width, device="meta")
            memory.put(read.kind, site, read.scale, rows, source.grid)
        return memory


def _solve(left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    """Systems of r equations for m right-hand sides: elimination, then two substitutions."""
    *batch, r, m = right
    count = 1
    for size in batch:
        count *= size
    return count * (2 * r**3 // 3 + 2 * r * r * m)


SOLVING = {torch.ops.aten._linalg_solve_ex: _solve}
