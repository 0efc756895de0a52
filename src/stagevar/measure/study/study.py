"""The systematic analysis of a model: what each scale settles, scale by scale (after arXiv 2512.16483).

After every scale the picture as it stands is decoded and compared with the final one: what it shows, its structure, its
spectrum. Beside it: what guidance does to the codes, how the latent changes, how low the rank of the hidden states is,
and what the scale costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stagevar.calling import expand
from stagevar.drawing import condition, to_pil
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.signals import flipped, measure
from stagevar.errors import OptionError
from stagevar.machine import machine
from stagevar.measure.likeness.fidelity import (
    band_energy,
    contour_agreement,
    edge_agreement,
    layout_agreement,
    psnr,
    ssim,
)
from stagevar.measure.likeness.scorer import Scorer
from stagevar.measure.predict.explain import text_lengths
from stagevar.measure.predict.flops import plan_flops
from stagevar.measure.study.curves import Curve, CurveKind, Study
from stagevar.measure.study.spectrum import spectrum
from stagevar.measure.suites.known import suite_of
from stagevar.pipeline import MAX_BATCH, Pipeline
from stagevar.prepared import Prepared, require_picture
from stagevar.request import PerScale

BANDS = 5
"""Most radial bands, octaves down from the Nyquist frequency; small pictures have fewer."""

RANK_PROMPTS = 12
"""Prompts whose hidden states are decomposed; decompositions are costly."""

_KINDS: dict[str, tuple[CurveKind, str]] = {
    "strict": ("semantic", ""),
    "relaxed": ("semantic", ""),
    "objects": ("semantic", ""),
    "agreement": ("semantic", ""),
    "layout": ("semantic", ""),
    "contours": ("structural", ""),
    "ssim": ("structural", ""),
    "edges": ("structural", ""),
    "psnr": ("structural", "dB"),
    "flips": ("guidance", ""),
    "gap": ("guidance", ""),
    "confidence": ("guidance", ""),
    "low": ("change", ""),
    "middle": ("change", ""),
    "high": ("change", ""),
    "milliseconds": ("cost", "ms"),
    "gflop": ("cost", "GFLOP"),
}
"""Kind and unit of each curve; bands are spectral."""

SCORER_KINDS: dict[str, CurveKind] = {"lpips": "structural", "dists": "structural"}
"""Kind of a scorer's curve by the scorer's name; others are semantic."""


def study(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    guidance: PerScale | None = None,
    batch_size: int = MAX_BATCH,
    rank_prompts: int = RANK_PROMPTS,
    samples: int = 6,
    scorers: Mapping[str, Scorer] | None = None,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> Study:
    """Draw every prompt with the plain run and measure what happens at each scale.

    Curves, (n,) per scale:
        ``strict``, ``relaxed``, ``objects``, ``agreement``: see the suite's ``readings``; models with a suite only.
        ``layout``, ``contours``, ``edges``, ``ssim``, ``psnr``: the picture as it stands against the final one.
        ``band_0`` to ``band_4``: spectral energy over the final picture's, lowest octave first.
        ``flips``: share of codes whose likeliest value guidance changes; ``gap``: norm of the difference of the
        branches' logits over that of the prompt's, both centred over the values of a code (softmax sees no shift);
        both are 0 where the model itself runs the prompt's branch alone.
        ``confidence``, ``low``, ``middle``, ``high``: see ``Signals``; of the guided logits that codes are drawn from.
        ``milliseconds``: of a pass, per picture; after one picture of warm-up.
        ``gflop``: operations of a pass, of the branches that run, for the prompt's number of text tokens; see
        ``plan_flops``.

    Args:
        pipeline: any model of the package.
        prompts: one picture each; picture i has seed ``seed + i``.
        guidance: strength, or one weight per scale; the model's default if None.
        batch_size: pictures per pass.
        rank_prompts: the first so many prompts' hidden states are decomposed.
        samples: the first so many prompts' pictures are kept.
        scorers: further curves of likeness to the final picture, by name.
        progress: told how many pictures are done.
        settings: other fields of ``Request``, such as height and width.

    Raises:
        OptionError: no prompts to decompose, a scorer's name that is taken, or a model that restores pictures.
        RequestError and its kinds, NumericError.
    """
    if rank_prompts < 1:
        raise OptionError(f"at least one prompt's hidden states must be decomposed, not {rank_prompts}")
    if batch_size < 1:
        raise OptionError(f"batch_size must be 1 or more, not {batch_size}")
    scorers = scorers or {}
    if taken := sorted(set(scorers) & set(_KINDS)):
        raise OptionError(f"a scorer cannot be named {taken[0]!r}, which is a curve of every study")
    seeds = range(seed, seed + len(prompts))
    requests = expand(list(prompts), seed=seeds, guidance_scale=guidance, **settings)
    for request in requests:
        require_picture(pipeline.model, request)
    model, prepared = pipeline.model, [pipeline.prepare(request) for request in requests]
    schedule, suite = prepared[0].schedule, suite_of(pipeline.model)
    questions = suite.parse(prompts) if suite else ()
    for _ in _scales(model, prepared[:1], 0):
        pass
    rows: list[list[dict[str, Tensor]]] = []
    spectra: list[list[list[Mapping[str, Tensor]]]] = []
    sheet: list[list[Any]] = [[] for _ in schedule]
    for start in range(0, len(requests), batch_size):
        batch = prepared[start : start + batch_size]
        seen = list(_scales(model, batch, rank_prompts - start))
        pictures = [scale.pictures for scale in seen]
        compared = _compared(pictures, scorers)
        if suite is not None:
            read = suite.readings(questions[start : start + batch_size], pictures)
            compared = [one | other for one, other in zip(read, compared, strict=True)]
        rows.append([likeness | scale.figures for likeness, scale in zip(compared, seen, strict=True)])
        if start < rank_prompts:
            spectra.append([scale.groups for scale in seen])
        for column, each in zip(sheet, pictures, strict=True):
            column.extend(to_pil(picture) for picture in each[: max(0, samples - start)])
        if progress is not None:
            progress(start + len(batch))
    facts = machine(model)
    return Study(
        model=model.name,
        family=model.family,
        device=facts["device"],
        dtype=facts["dtype"],
        versions={name: facts[name] for name in ("stagevar", "torch")},
        schedule=schedule,
        size=prepared[0].size,
        prompts=tuple(prompts),
        seed=seed,
        guidance=tuple(scale.guidance for scale in prepared[0].plan),
        batch_size=batch_size,
        curves=_curves(rows),
        groups=tuple(
            _curves([[scale[group] for scale in batch] for batch in spectra], "rank") for group in range(model.groups)
        ),
        samples=tuple(tuple(column) for column in sheet),
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """One scale of one batch: pictures (n, 3, h, w) as they stand, figures (n,) by name, and per group of blocks the
    figures of its input."""

    pictures: Tensor
    figures: dict[str, Tensor]
    groups: list[Mapping[str, Tensor]]


def _scales(model: ScaleModel, batch: Sequence[Prepared], watched: int) -> Iterator[_Scale]:
    """Draw a batch; all measuring happens between the passes, so that it is not part of their time."""
    n, schedule = len(batch), batch[0].schedule
    size, last = model.depth // model.groups, f"block.{model.depth - 1}"
    inputs = ["embed", *(f"block.{group * size - 1}" for group in range(1, model.groups))]
    wanted = {last, "logits", *(inputs if watched > 0 else ())}
    seen: dict[str, Tensor] = {}

    def tap(name: str, scale: int, tensor: Tensor) -> None:
        if name in wanted:
            seen[name] = tensor

    with torch.inference_mode():
        given = condition(model, [each.request for each in batch])
        before = model.empty_latent(n, schedule)
    plans, seeds = [each.plan for each in batch], [each.request.seed for each in batch]
    lengths = text_lengths(given)[:n]
    flops = [plan_flops(model, schedule, plan, length) for plan, length in zip(plans, lengths, strict=True)]
    for step in run(model, given, schedule, plans, seeds, tap=tap):
        with torch.inference_mode():
            at = Scale(schedule, step.scale)
            hidden = {
                name: x[:, -at.tokens :] for name, x in seen.items() if name != "logits"
            }  # the prompt may be ahead
            figures = {"flips": torch.zeros(n), "gap": torch.zeros(n)}
            if len(hidden[last]) == given.rows:
                cond, null = model.logits(hidden[last], given, at).chunk(2)
                figures = _guidance(cond, null, seen["logits"])
            signals = measure(seen["logits"], None, step.latent - before, step.latent)
            for name in ("confidence", "low", "middle", "high"):
                figures[name] = torch.tensor([getattr(each, name) for each in signals])
            figures["milliseconds"] = torch.full((n,), sum(record.milliseconds for record in step.records) / n)
            figures["gflop"] = torch.tensor([row[step.scale].total / 1e9 for row in flops])
            groups = [spectrum(hidden[name][: min(n, watched)]) for name in inputs] if watched > 0 else []
            pictures = model.decode(step.latent).float().cpu()
        yield _Scale(pictures, figures, groups)
        before = step.latent


def _guidance(cond_nMV: Tensor, null_nMV: Tensor, guided_nMV: Tensor) -> dict[str, Tensor]:
    """What guidance changes: likeliest codes, and the logits."""
    cond, null = (each - each.mean(-1, keepdim=True) for each in (cond_nMV, null_nMV))
    gap = (cond - null).flatten(1).norm(dim=1) / cond.flatten(1).norm(dim=1).clamp(min=1e-12)
    return {"flips": flipped(guided_nMV, cond_nMV).cpu(), "gap": gap.cpu()}


def _compared(pictures: Sequence[Tensor], scorers: Mapping[str, Scorer]) -> list[dict[str, Tensor]]:
    """Likeness of the pictures after every scale to the last of them."""
    final = pictures[-1]
    bands = max(1, min(BANDS, int(math.log2(min(final.shape[-2:])))))
    energy = band_energy(final, bands)
    rows = []
    for each in pictures:
        here = band_energy(each, bands)
        ratio = torch.where(energy > 0, here / energy.clamp(min=1e-30), 1.0)
        rows.append(
            {
                **{name: scorer(each, final).detach().float().cpu() for name, scorer in scorers.items()},
                "layout": layout_agreement(each, final),
                "contours": contour_agreement(each, final),
                "ssim": ssim(each, final),
                "edges": edge_agreement(each, final),
                "psnr": psnr(each, final),
                **{f"band_{band}": ratio[:, band] for band in range(bands)},
            }
        )
    return rows


def _curves(batches: Sequence[Sequence[Mapping[str, Tensor]]], kind: CurveKind | None = None) -> dict[str, Curve]:
    """Figures of batches, per scale and name, as curves over all prompts."""
    curves = {}
    for name in batches[0][0]:
        table = torch.cat([torch.stack([scale[name] for scale in batch], 1).double() for batch in batches])
        other: CurveKind = "spectral" if name.startswith("band_") else SCORER_KINDS.get(name, "semantic")
        own, unit = _KINDS.get(name, (other, ""))
        curves[name] = Curve(kind or own, unit, tuple(tuple(row) for row in table.tolist()))
    return curves
