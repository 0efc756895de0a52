"""What the page says beside its pictures: progress, the verdict of a comparison, the plan in words, and failures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stagevar.engine.loop.trace import Trace
from stagevar.measure.likeness.fidelity import ssim
from stagevar.measure.why.comparison import Comparison
from stagevar.measure.why.why import tensor
from stagevar.measure.why.words import stretches
from stagevar.ui.asked import shown


def progress(text: str) -> str:
    return f'<p role="status">{escape(text[:1].upper() + text[1:])} ...</p>'


def failure(message: str) -> str:
    """An error, as every other door words it."""
    return f'<p class="error" role="alert">{escape(message)}</p>'


def verdict(comparison: Comparison) -> str:
    """How much faster, how much less work, how alike; and what the figures hold for."""
    plain, own = comparison.plain.trace, comparison.accelerated.trace
    faster = plain.network_milliseconds / own.network_milliseconds
    alike = float(ssim(tensor(comparison.accelerated.previews[-1]), tensor(comparison.plain.previews[-1])))
    machine, size = own.machine, comparison.pipeline.prepare(comparison.request).size
    rounded = f" with {machine['quantize']} weights" if machine["quantize"] else ""
    return (
        f'<p class="headline">{faster:.2f}x faster, {comparison.fewer_operations:.2f}x fewer operations, '
        f"SSIM {alike:.3f}</p>"
        f"<p><small>{escape(str(comparison.request.accelerator))}: network {_spent(comparison.accelerated.timed)}; "
        f"plain run: {_spent(comparison.plain.timed)}. {escape(own.model)}, {shown(size)}, seed {own.seeds[0]}, one "
        f"picture at a time, {machine['dtype']}{rounded} on {machine['device']}. "
        "Text and decoding are not in it. SSIM is to the plain run: 1 is equal.</small></p>"
    )


def _spent(timed: Sequence[Trace]) -> str:
    """Median and range of the times."""
    milliseconds = [trace.network_milliseconds for trace in timed]
    middle, count = milliseconds[(len(timed) - 1) // 2], len(timed)
    if count == 1:
        return f"{middle:.0f} ms (one run)"
    return f"{middle:.0f} ms (median of {count}, {milliseconds[0]:.0f} to {milliseconds[-1]:.0f})"


def plan_in_words(comparison: Comparison) -> str:
    """What the accelerator changed, a line for every stretch of scales that ran alike."""
    own, plain = comparison.accelerated.plan, comparison.plain.plan
    assert own is not None and plain is not None
    lines = "".join(
        f'<li class="{stretch.stage or "none"}">{escape(str(stretch))}'
        f"{f' <small>{stretch.stage} stage</small>' if stretch.stage else ''}</li>"
        for stretch in stretches(own, plain, comparison.schedule)
    )
    return f'<div class="plan"><ul>{lines}</ul></div>'
