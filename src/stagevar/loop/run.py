"""The loop: one pass per scale, the same for every family and every plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.errors import Cancelled, NumericError, OptionError
from stagevar.loop.cache import KVCache
from stagevar.loop.contract import BlockContext, Condition, ScaleModel
from stagevar.loop.plan import Branch, Plan, ScalePlan, Schedule
from stagevar.loop.sample import sample
from stagevar.loop.trace import ScaleRecord

Tap = Callable[[str, int, Tensor], None]
"""Observer ``(name, scale, tensor)``; names are ``embed``, ``block.N``, ``logits``, ``codes``, ``latent``."""


@dataclass(frozen=True, slots=True)
class Step:
    """State after one scale: the latent (n, D, H, W) of all images in request order, and what ran."""

    scale: int
    latent: Tensor
    records: tuple[ScaleRecord, ...]


@dataclass(slots=True)
class _Cohort:
    """Images that have shared every pass so far, hence one cache. It splits when their plans part; it never merges."""

    images: tuple[int, ...]
    branch: Branch
    condition: Condition
    cache: KVCache
    latent: Tensor


def run(
    model: ScaleModel,
    condition: Condition,
    schedule: Schedule,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    *,
    forced: Mapping[int, Tensor] | None = None,
    tap: Tap | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[Step]:
    """Generate n images, scale by scale.

    Args:
        model: supplies the pieces.
        condition: 2n rows, the prompts' rows first.
        schedule: grids of the scales.
        plans: one per image; images may differ in any field.
        seeds: one per image; the same seed gives the same noise in every plan and batch.
        forced: codes (n, M) or (n, M, d) per scale to take instead of drawn ones.
        tap: observer of intermediate tensors (rows of the cohort at hand).
        cancelled: asked before each scale.

    Yields:
        One ``Step`` per scale, skipped scales included.

    Raises:
        OptionError: a plan's length differs from the schedule's.
        NumericError: NaN or infinity in the logits.
        Cancelled: ``cancelled`` returned True.
    """
    n = len(plans)
    for plan in plans:
        _check(plan, model, schedule)
    if condition.rows != 2 * n or len(seeds) != n:
        raise ValueError(f"{n} plans need {n} seeds and {2 * n} condition rows, not {len(seeds)} and {condition.rows}")
    cohorts = [
        _Cohort(
            tuple(range(n)),
            "both",
            condition,
            KVCache(model.depth, _capacity(model, schedule, plans)),
            model.empty_latent(n, schedule),
        )
    ]
    for k in range(len(schedule)):
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled before scale {k + 1} of {len(schedule)}")
        cohorts = [part for cohort in cohorts for part in _split(cohort, k, model, schedule, plans)]
        records = []
        with torch.inference_mode():
            for cohort in cohorts:
                codes = forced[k][list(cohort.images)] if forced is not None and k in forced else None
                records.append(_advance(model, cohort, schedule, k, plans, seeds, codes, tap))
            latent = _gather(cohorts, n)
        yield Step(k, latent, tuple(records))


def _check(plan: Plan, model: ScaleModel, schedule: Schedule) -> None:
    if len(plan) != len(schedule):
        raise OptionError(f"the plan has {len(plan)} scales but the schedule has {len(schedule)}")
    for scale in plan:
        layer = scale.guidance_layer
        if layer is not None and not -model.depth <= layer < model.depth:
            raise OptionError(f"guidance_layer {layer} is out of range; {model.name} has {model.depth} blocks")


def _capacity(model: ScaleModel, schedule: Schedule, plans: Sequence[Plan]) -> int:
    """Cache positions that any of the plans needs: all executed scales but the last."""
    if not model.causal:
        return 0
    return max(sum(schedule[k][0] * schedule[k][1] for k in plan.executed[:-1]) for plan in plans)


def _split(cohort: _Cohort, k: int, model: ScaleModel, schedule: Schedule, plans: Sequence[Plan]) -> list[_Cohort]:
    """Regroup a cohort's images by the shape of their plans at scale k."""
    groups: dict[object, list[int]] = {}
    for position, image in enumerate(cohort.images):
        plan = plans[image]
        groups.setdefault((plan[k].shape, k == plan.executed[-1]), []).append(position)
    if len(groups) == 1:
        return [cohort]
    n, parts = len(cohort.images), []
    for positions in groups.values():
        at = torch.tensor(positions, device=cohort.latent.device)
        rows = torch.cat([at, at + n]) if cohort.branch == "both" else at
        images = tuple(cohort.images[position] for position in positions)
        capacity = _capacity(model, schedule, [plans[image] for image in images])
        parts.append(
            _Cohort(
                images, cohort.branch, cohort.condition.take(rows), cohort.cache.take(rows, capacity), cohort.latent[at]
            )
        )
    return parts


def _narrow(cohort: _Cohort, branch: Branch) -> None:
    """Drop the rows of the branch that ended and free their cache at once."""
    if cohort.branch == branch:
        return
    n = len(cohort.images)
    rows = torch.arange(n, device=cohort.latent.device) + (n if branch == "null" else 0)
    cohort.condition = cohort.condition.take(rows)
    cohort.cache.narrow(rows)
    cohort.branch = branch


def _advance(
    model: ScaleModel,
    cohort: _Cohort,
    schedule: Schedule,
    k: int,
    plans: Sequence[Plan],
    seeds: Sequence[int],
    codes: Tensor | None,
    tap: Tap | None,
) -> ScaleRecord:
    """Run scale k for one cohort and add its codes to the latent."""
    began = time.perf_counter()
    here = [plans[image][k] for image in cohort.images]
    cached = cohort.cache.length(0)
    rows = 0
    _narrow(cohort, here[0].branch)
    if here[0].run == "full":
        last = k == plans[cohort.images[0]].executed[-1]
        logits = _network(model, cohort, schedule, k, here, last, tap)
        rows = cohort.condition.rows * schedule[k][0] * schedule[k][1]
        if not bool(torch.isfinite(logits).all()):
            raise NumericError(f"NaN or infinity in the logits of scale {k + 1}; run in float32, or check the weights")
        if codes is None:
            codes = sample(logits, here, [seeds[image] for image in cohort.images], k)
        cohort.latent = model.add_codes(cohort.latent, codes, schedule, k)
        if tap is not None:
            tap("logits", k, logits)
            tap("codes", k, codes)
            tap("latent", k, cohort.latent)
    if cohort.latent.is_cuda:
        torch.cuda.synchronize(cohort.latent.device)
    return ScaleRecord(
        scale=k,
        grid=schedule[k],
        images=cohort.images,
        run=here[0].run,
        branch=cohort.branch,
        rows=rows,
        cached=cached,
        milliseconds=(time.perf_counter() - began) * 1e3,
    )


def _network(
    model: ScaleModel,
    cohort: _Cohort,
    schedule: Schedule,
    k: int,
    here: Sequence[ScalePlan],
    last: bool,
    tap: Tap | None,
) -> Tensor:
    """Guided, temperature-scaled logits (n, M, ...) of one cohort."""
    n, condition = len(cohort.images), cohort.condition
    x = model.embed(cohort.latent, condition, schedule, k)
    rope = model.rope(schedule, k)
    both, guide_behind = here[0].branch == "both", here[0].guidance_layer
    if guide_behind is not None and guide_behind < 0:
        guide_behind += model.depth
    if tap is not None:
        tap("embed", k, x)
    for layer, block in enumerate(model.layers):
        attend = _Attend(cohort.cache if model.causal else None, layer, keep=not last)
        context = BlockContext(layer, condition, rope, attend)
        for part in block.parts:
            x = x + part(x, context)
        if both and layer == guide_behind:
            x = _guide(x, here).repeat(2, 1, 1)
        if tap is not None:
            tap(f"block.{layer}", k, x)
    logits = model.logits(x, condition, k)
    divisor = _per_image([plan.temperature or 1.0 for plan in here], logits)
    logits = logits / (divisor.repeat(len(logits) // n, *[1] * (logits.dim() - 1)))
    if not both:
        return logits
    return logits[:n] if guide_behind is not None else _guide(logits, here)


def _guide(rows: Tensor, here: Sequence[ScalePlan]) -> Tensor:
    """``w * cond + (1 - w) * null`` of 2n rows, w per image."""
    cond, null = rows.chunk(2)
    w = _per_image([plan.guidance for plan in here], rows)
    return w * cond + (1 - w) * null


def _per_image(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 1))


class _Attend:
    """Self-attention of one layer at one scale over its history and itself."""

    def __init__(self, cache: KVCache | None, layer: int, *, keep: bool) -> None:
        self.cache, self.layer, self.keep = cache, layer, keep

    def __call__(self, q_RHMD: Tensor, k_RHMD: Tensor, v_RHMD: Tensor, *, scale: float) -> Tensor:
        if self.cache is not None:
            k_RHMD, v_RHMD = self.cache.extend(self.layer, k_RHMD, v_RHMD, keep=self.keep)
        return F.scaled_dot_product_attention(q_RHMD, k_RHMD, v_RHMD, scale=scale)


def _gather(cohorts: Sequence[_Cohort], n: int) -> Tensor:
    """The latents of all cohorts in request order."""
    if len(cohorts) == 1:
        return cohorts[0].latent
    latent = cohorts[0].latent.new_empty(n, *cohorts[0].latent.shape[1:])
    for cohort in cohorts:
        latent[list(cohort.images)] = cohort.latent
    return latent
