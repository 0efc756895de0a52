"""Accelerators side by side in one process: the same captions and seeds, batch by batch in turn.

Time drifts on every machine, so a batch is drawn by all accelerators before the next one begins, the order moves by one
from batch to batch, each accelerator draws one untimed batch first, and speed is a ratio of times of the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stagevar.accelerators.base import Accelerator
from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError
from stagevar.machine import load, machine
from stagevar.measure.bench.draw import draw
from stagevar.measure.bench.latency import by_accelerator
from stagevar.measure.bench.taken import Taken, take
from stagevar.measure.bench.tally import Tally
from stagevar.measure.likeness.scorer import Scorer
from stagevar.measure.predict.explain import text_rows
from stagevar.measure.predict.flops import operations
from stagevar.measure.suites.categories import composition
from stagevar.measure.suites.known import in_turn, questions_for, suite_of
from stagevar.measure.suites.score import MAX_CAPTIONS
from stagevar.pipeline import Pipeline
from stagevar.registry import parse
from stagevar.request import PerScale, Request

PLAIN = "none"

Known = Mapping[tuple[str, int], Taken]
"""Batches that were measured before, by accelerator and first picture."""

Noted = Callable[[str, int, Taken], None]
"""Told every batch that was measured, with accelerator and first picture."""


def compare(
    pipeline: Pipeline,
    accelerators: Sequence[str | Accelerator],
    *,
    captions: int = 60,
    prompts: Sequence[str] = (),
    guidance: PerScale | Sequence[float] | None = None,
    seed: int = 0,
    seeds: int = 1,
    batch_size: int = 16,
    parts: bool = False,
    reference: Pipeline | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    known: Known | None = None,
    noted: Noted = lambda label, start, taken: None,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Draw the same captions with every accelerator; measure time, closeness to the plain run and the oracle's score.

    Args:
        accelerators: as ``stagevar.registry.parse`` reads them; ``none`` is added, and comes first.
        captions: how many, ``seeds`` pictures of each per accelerator; picture i has seed ``seed + i``.
        prompts: taken in turn instead of the model's suite, whose reader cannot judge them.
        guidance: strength; the model's default if None.
        seeds: pictures of a caption; of several their diversity is measured.
        parts: also measure latency by part, in batches of their own.
        reference: the same model without what is compared, such as rounded weights. Its plain run is then the first
            row, which the pipeline's own plain run and accelerators are compared with.
        scorers: further likenesses to the plain run, by name.
        known: a batch that is not known of all accelerators is drawn by all, since times are compared batch by batch.
        noted: told as soon as a batch has been drawn by all.
        progress: told how many pictures every accelerator has drawn.
        settings: other fields of ``Request``, such as height and width.

    Returns:
        What was run and where, and ``rows``, one per accelerator. Seconds are sums over all pictures; ``speedup`` is
        the median over batches of plain over accelerated network seconds, ``flop_ratio`` the gain that operations
        predict; ``executed_scales`` are those of most pictures, in a share ``executed_share``; ``rows_processed``,
        ``flops`` and figures by scale are means per picture; ``oracle`` and ``relaxed`` are null where the oracle
        cannot read; ``peak_bytes`` are of the process, on CUDA of the device. Qualities are means over categories;
        their standard errors take captions as independent; ``ssim_low`` is that of the worst tenth of pictures at most.
        ``load`` is the machine's at the start.

    Raises:
        OptionError: an accelerator that does not exist or fit, or a number out of range.
    """
    if not 1 <= captions <= MAX_CAPTIONS:
        raise OptionError(f"captions must lie between 1 and {MAX_CAPTIONS}, not {captions}")
    for name, value in (("batch_size", batch_size), ("seeds", seeds)):
        if value < 1:
            raise OptionError(f"{name} must be 1 or more, not {value}")
    model = pipeline.model
    chosen = distinct([PLAIN, *accelerators])
    drawn_by = {name: (pipeline, accelerator) for name, accelerator in chosen.items()}
    if reference is not None:
        if parts:
            raise OptionError("latency by part is measured without a reference; leave one of them out")
        drawn_by = {f"{PLAIN} in {_weights(reference.model)}": (reference, chosen[PLAIN])} | drawn_by
    labels, found, busy = list(drawn_by), dict(known or {}), load()
    suite = None if prompts else suite_of(model)
    asked = in_turn(prompts, captions) if prompts else questions_for(model, captions)
    questions = [question for question in asked for _ in range(seeds)]
    texts = [question.caption for question in questions]
    sampling: dict[str, Any] = {"guidance_scale": guidance, **settings}
    requests = [Request(text, seed=seed + i, **sampling) for i, text in enumerate(texts)]
    prepared = {name: pipeline.prepare(replace(requests[0], accelerator=chosen[name])) for name in chosen}[PLAIN]
    cost = operations(model, prepared.schedule, text_rows(model, texts[:batch_size]))
    starts = range(0, len(requests), batch_size)
    missing = [start for start in starts if not all((label, start) in found for label in labels)]
    for pipe, accelerator in drawn_by.values() if missing else ():
        draw(pipe, requests[:batch_size], accelerator)
    for start in missing:
        turn, part = start // batch_size % len(labels), slice(start, start + batch_size)
        for pipe, _ in drawn_by.values():
            pipe.model.encode_text(texts[part])  # some encoders remember; then for all alike
        order = labels[turn:] + labels[:turn]
        drawn = {label: draw(drawn_by[label][0], requests[part], drawn_by[label][1]) for label in order}
        for label in labels:
            own, pair = drawn_by[label][0].model, (drawn[label], drawn[labels[0]])
            found[label, start] = take(own, *pair, cost, suite, questions[part], scorers or {})
        for label in labels:
            noted(label, start, found[label, start])
        if progress is not None:
            progress(min(start + batch_size, len(requests)))
    tallies = {label: Tally(questions, [found[label, start] for start in starts]) for label in labels}
    rows = [{"accelerator": label, **tally.row(tallies[labels[0]])} for label, tally in tallies.items()]
    if parts:
        measured = by_accelerator(pipeline, chosen, requests[:batch_size])
        rows = [row | {"parts": measured[row["accelerator"]]} for row in rows]
    return {
        **machine(model),
        "model": model.name,
        "captions": captions,
        **(composition(suite, asked) if suite else {}),
        "seeds": seeds,
        "batch": min(batch_size, len(requests)),
        "size": list(prepared.size),
        "scales": len(prepared.schedule),
        "grids": [f"{h}x{w}" for h, w in prepared.schedule],
        "guidance": model.defaults.guidance if guidance is None else guidance,
        "seed": seed,
        "errors_over": "captions",
        "warm_up": "one untimed batch each",
        "load": busy,
        "rows": rows,
    }


def _weights(model: ScaleModel) -> str:
    """The weights of a model's blocks, in a word."""
    return model.quantized or str(model.dtype).removeprefix("torch.")


def distinct(accelerators: Sequence[str | Accelerator]) -> dict[str, Accelerator]:
    """By their texts as they were written, without those that say the same as an earlier one."""
    first: dict[Accelerator, str] = {}
    for text in accelerators:
        first.setdefault(parse(text), str(text).strip())
    return {text: accelerator for accelerator, text in first.items()}
