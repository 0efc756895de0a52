"""Show what an accelerator does to a model: its plan as a table with operations, without weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch

from stagevar.accelerators.base import Accelerator, Nothing
from stagevar.drawing import condition
from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Scale
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.tokens import Tokens
from stagevar.errors import MissingFileError
from stagevar.measure.predict.flops import condition_flops, plan_flops
from stagevar.measure.predict.rehearse import rehearse, signals_at
from stagevar.memory.predict import TEXT_LENGTH
from stagevar.prepared import Prepared, prepare
from stagevar.request import Request

NOTE = "predicted from operations of the network; memory traffic, launches, sampling, text and decoding are not in it"
ONLINE = "this accelerator decides per picture; the plan shown is the one for average signals of the scenes model"


def explain(
    model: ScaleModel,
    accelerator: str | Accelerator,
    *,
    text_length: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """A request's plan, scale by scale, and what it saves. That of an online accelerator is predicted (``rehearse``).

    Args:
        model: with or without weights (``stagevar.loading.sources.skeleton``).
        accelerator: as ``stagevar.registry.parse`` reads it.
        text_length: text tokens; those of the model where it takes a fixed number, else 32.
        settings: other fields of ``Request``, such as height and width; the nearest size that the model draws is taken.

    Returns:
        ``rows`` with one entry per scale, ``gflop`` (of one image: all scales), ``plain_gflop``, ``condition_gflop``
        (spent once per image besides), ``flop_ratio`` (plain over accelerated) and what the figures hold for.

    Raises:
        OptionError: an unknown accelerator or field, or one that does not fit the schedule.
    """
    request = Request("any", accelerator=accelerator, **settings)
    plain, prepared = prepare(model, replace(request, accelerator="none")), prepare(model, request)
    schedule, chosen = prepared.schedule, prepared.accelerator
    length = text_length or text_rows(model, model.samples[:1])
    plan = rehearse(chosen, prepared.plan, schedule)
    flops = plan_flops(model, schedule, plan, length)
    total = sum(row.total for row in flops)
    reference = sum(row.total for row in plan_flops(model, schedule, plain.plan, length))
    rows = [
        {
            "scale": row.scale,
            "grid": f"{row.grid[0]}x{row.grid[1]}",
            "stage": scale.stage,
            "run": scale.run,
            "group": group if len(group := plan.pass_of(row.scale)) > 1 else (),
            "branch": scale.branch,
            "tokens": brief(scale.tokens),
            "kept": row.share,
            "guidance": scale.guidance if scale.branch == "both" or scale.carry else None,
            "rows": row.rows,
            "gflop": row.total / 1e9,
            "share": row.total / total,
        }
        for row, scale in zip(flops, plan, strict=True)
    ]
    return {
        "model": model.name,
        "accelerator": str(chosen),
        "size": list(prepared.size),
        "text_length": length,
        "rows": rows,
        "gflop": total / 1e9,
        "plain_gflop": reference / 1e9,
        "condition_gflop": condition_flops(model, length) / 1e9,
        "flop_ratio": reference / total,
        "note": "; ".join([*_unchanged(prepared, plain, plan), *([ONLINE] if chosen.online else []), NOTE]),
    }


def _unchanged(prepared: Prepared, plain: Prepared, plan: Plan) -> Iterator[str]:
    """That an accelerator takes the plain run, if it does, and the numbers that it was held against."""
    chosen, at = prepared.accelerator, Scale(prepared.schedule, 0)
    if plan != plain.plan or isinstance(chosen, Nothing):
        return
    reasons = chosen.reasons(prepared.plan, at, signals_at(at.share, both=True)) if chosen.online else ()
    held = [
        f"{each.about} is {each.value:.3f}, held against {each.bound:g}" for each in reasons if each.bound is not None
    ]
    yield ": ".join([f"{chosen} takes the plain run here", *([", ".join(held)] if held else [])])


def brief(tokens: Tokens | None) -> str:
    """A reduction's name, and its text settings that are not defaults; numbers such as the kept share are left out."""
    if tokens is None:
        return "all"
    settings = ((getattr(tokens, f.name), f.default) for f in fields(cast(Any, tokens)))
    shown = ", ".join(value for value, usual in settings if isinstance(value, str) and value != usual)
    return type(tokens).__name__.lower() + (f"({shown})" if shown else "")


def text_rows(model: ScaleModel, prompts: Sequence[str]) -> int:
    """Text tokens of the longest prompt; ``TEXT_LENGTH`` if the model has no text encoder."""
    try:
        return max(len(states) for states in model.encode_text(prompts).features)
    except MissingFileError:
        return TEXT_LENGTH


def attended(model: ScaleModel, request: Request) -> int:
    """Text tokens that the rows of a request attend to: its prompt's, or those of the model's null text without one."""
    if request.prompt:
        return text_rows(model, [request.prompt])
    with torch.inference_mode():
        return text_lengths(condition(model, [request]))[-1]


def text_lengths(condition: Condition) -> list[int]:
    """Text tokens that each row of a condition attends to."""
    if condition.text_mask is not None:
        return [int(length) for length in condition.text_mask.sum(1)]
    return [condition.text_kv[0][0].shape[2] if condition.text_kv else 0] * condition.rows
