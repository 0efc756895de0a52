"""Why a picture is as it is: what ran at each scale, by what it was decided, what it cost, and what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from stagevar.measure.likeness.fidelity import band_ratio, psnr, ssim
from stagevar.measure.predict.explain import attended, brief
from stagevar.measure.predict.flops import plan_flops
from stagevar.measure.why.comparison import Comparison, Run
from stagevar.measure.why.words import stages, stretches


def answer(comparison: Comparison) -> dict[str, Any]:
    """All that is known of both runs, as plain data.

    Args:
        comparison: drawn to its end.

    Returns:
        What was drawn and on what; ``scales``, an entry each: what ran, ``kept`` (share of the network that its tokens
        passed in the mean), ``rows``, ``milliseconds`` and ``gflop`` beside ``plain_rows`` and so on, ``reasons``
        (about, value, bound) and whether the accelerator ``revised`` its plan there; ``plan``, the same in words; and
        ``changed``: SSIM, PSNR in dB, the energy of the frequency bands, and the share of pixels that differ by more
        than one level of 255.
    """
    plan, plain = comparison.accelerated.plan, comparison.plain.plan
    assert plan is not None and plain is not None
    schedule, own = comparison.schedule, comparison.accelerated.trace
    labels, costs = stages(plan), (_gflop(comparison, comparison.accelerated), _gflop(comparison, comparison.plain))
    traces = own.by_scale(), comparison.plain.trace.by_scale()
    rows = []
    for k, scale in enumerate(plan):
        note = comparison.notes.get(k)
        rows.append(
            {
                "scale": k,
                "grid": f"{schedule[k][0]}x{schedule[k][1]}",
                "stage": labels[k],
                "run": scale.run,
                "branch": scale.branch,
                "tokens": brief(scale.tokens),
                "kept": float(comparison.shares[k].mean()),
                **_side("", traces[0][k], costs[0][k]),
                **_side("plain_", traces[1][k], costs[1][k]),
                "reasons": [asdict(reason) for reason in note.reasons] if note else [],
                "revised": note is not None and note.revised,
            }
        )
    pictures = [run.previews[-1] for run in (comparison.accelerated, comparison.plain)]
    return {
        "model": own.model,
        "machine": own.machine,
        **comparison.pipeline.prepare(comparison.request).settings,
        "scales": rows,
        "plan": [str(stretch) for stretch in stretches(plan, plain, schedule)],
        "fewer_operations": comparison.fewer_operations,
        "milliseconds": own.network_milliseconds,
        "plain_milliseconds": comparison.plain.trace.network_milliseconds,
        "changed": changed(*pictures),
    }


def changed(own: Image, plain: Image) -> dict[str, Any]:
    """What sets two pictures of one size apart."""
    pair = tensor(own), tensor(plain)
    apart = (pair[0] - pair[1]).abs().amax(1) > 1.5 / 255
    return {
        "ssim": float(ssim(*pair)),
        "psnr": float(psnr(*pair)),
        "bands": band_ratio(*pair)[0].tolist(),
        "pixels": float(apart.float().mean()),
    }


def tensor(image: Image) -> Tensor:
    """(1, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255


def _gflop(comparison: Comparison, run: Run) -> list[float]:
    """Operations of each scale of the plan that ran, in billions."""
    assert run.plan is not None
    model = comparison.pipeline.model
    length = attended(model, comparison.request)
    return [row.total / 1e9 for row in plan_flops(model, comparison.schedule, run.plan, length)]


def _side(whose: str, ran: Mapping[str, Any], gflop: float) -> dict[str, Any]:
    """The figures of one run at one scale, under names that say whose they are."""
    figures = {"rows": ran["rows"], "milliseconds": ran["milliseconds"], "gflop": gflop}
    return {f"{whose}{name}": value for name, value in figures.items()}
