"""Drawing within a given amount of memory: what is chosen, and what the least is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from stagevar.accelerators.base import Nothing
from stagevar.accelerators.half_cache import HalfCache
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError, quoted
from stagevar.families.family import TextReader
from stagevar.loading.source import Source
from stagevar.loading.sources import outline
from stagevar.memory.predict import RunBytes, run_bytes
from stagevar.prepared import Prepared, facts, prepare
from stagevar.request import Request

INTERPRETER = 385 * 2**20
"""Bytes that Python and PyTorch themselves take, roughly."""

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True, slots=True)
class Held:
    """What is in memory beside the tensors of a run.

    Attributes:
        dtype: of the blocks.
        quantize: what the weights of the blocks' linear layers are rounded to; "" if they are not.
        text_encoder: bytes of its weights.
        movable: whether these can wait elsewhere between prompts, which needs a device beside the CPU.
        offloaded: whether they do.
    """

    dtype: torch.dtype
    quantize: str
    text_encoder: int
    movable: bool
    offloaded: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """How pictures are drawn within a limit.

    Attributes:
        batch: pictures at once.
        asked: pictures at once that were asked for.
        offload: whether the text encoder waits on the CPU between prompts.
        half_cache: whether keys and values are kept in bfloat16 (the accelerator ``half_cache``).
        run: what the batch takes.
        need: bytes of memory in all.
    """

    batch: int
    asked: int
    offload: bool
    half_cache: bool
    run: RunBytes
    need: int

    def __str__(self) -> str:
        pictures = f"{self.batch} picture{'s' * (self.batch > 1)} at once"
        fewer = f" in place of {self.asked}" if self.batch < self.asked else ""
        moved = ", text encoder on the CPU between prompts" * self.offload
        return f"{pictures}{fewer}{moved}{', keys and values in bfloat16' * self.half_cache}: {amount(self.need)}"

    def settled(self, model: ScaleModel, prepared: Prepared) -> Prepared:
        """A picture as it is drawn within the limit: with keys and values in bfloat16 if they are."""
        if not self.half_cache:
            return prepared
        plain = isinstance(prepared.accelerator, Nothing)
        chosen = HalfCache() if plain else prepared.accelerator + HalfCache()
        return prepare(model, replace(prepared.request, accelerator=chosen))


def fitted(model: ScaleModel, schedule: Schedule, plan: Plan, batch: int, limit: int, held: Held) -> Fit:
    """The most pictures at once, up to ``batch``, that a limit allows. The text encoder goes to the CPU only if not
    even one picture fits beside it. Only if still none fits, the cache is kept in bfloat16, which rounds; nothing else
    that is chosen changes a picture beyond the order of sums.

    Args:
        model: its shapes; weights are not touched.
        schedule, plan: what is drawn, and how.
        batch: most pictures at once.
        limit: bytes.
        held: what is in memory besides.

    Raises:
        OptionError: not even one picture fits; says how much one needs, and what rounding would save.
    """
    settings: dict[str, Any] = {"dtype": held.dtype, "quantize": held.quantize}
    offers = [held.offloaded] if held.offloaded or not held.movable else [False, True]
    wide = model.causal and held.dtype == torch.float32 and plan[0].store == "same"
    least = 0
    for half in [False, True] if wide else [False]:
        tried = HalfCache().plan(plan, schedule, facts(model)) if half else plan
        sizes = {n: run_bytes(model, schedule, tried, n, **settings) for n in {1, min(2, batch), batch}}
        for offload in offers:
            most = _most({n: needed(run, held.text_encoder, offload=offload) for n, run in sizes.items()}, limit)
            if most:
                run = sizes.get(most) or run_bytes(model, schedule, tried, most, **settings)
                return Fit(most, batch, offload, half, run, needed(run, held.text_encoder, offload=offload))
        least = needed(sizes[1], held.text_encoder, offload=offers[-1])
    size = "x".join(map(str, reversed(model.picture_size(schedule))))
    said = f"one {size} picture of {model.name} needs {amount(least)}, more than the limit of {amount(limit)}"
    raise OptionError(f"{said}; {_advice(model, schedule, plan, held, least) or 'ask for a smaller size'}")


def _most(needs: dict[int, int], limit: int) -> int:
    """Pictures that fit, 0 if none do: by lines between known needs, which lie above the real need."""
    fit, need = max([(n, need) for n, need in needs.items() if need <= limit], default=(0, 0))
    more, greater = min([(n, need) for n, need in needs.items() if need > limit], default=(0, 0))
    return fit + (limit - need) * (more - fit) // (greater - need) if fit and more else fit


def _advice(model: ScaleModel, schedule: Schedule, plan: Plan, held: Held, least: int) -> str:
    """The settings that change pictures and need less, each with what one picture then needs."""
    dtypes = [held.dtype, *([torch.bfloat16] if held.dtype == torch.float32 else [])]
    lines = []
    for dtype in dtypes:
        for quantize in ("", "int8"):
            run = run_bytes(model, schedule, plan, 1, dtype=dtype, quantize=quantize)
            text = held.text_encoder * dtype.itemsize // held.dtype.itemsize
            need = needed(run, text, offload=held.offloaded or held.movable)
            words = ["dtype bfloat16"] * (dtype != held.dtype) + [f"quantize {quantize}"] * (quantize != "")
            if words and need < least:
                lines.append(f"with {' and '.join(words)} {amount(need)}")
    return f"with rounding, which changes details, it needs less: {', '.join(lines)}" if lines else ""


def needed(run: RunBytes, text_encoder: int, *, offload: bool) -> int:
    """Bytes of memory for drawing: an offloaded encoder is there only while it reads."""
    beside = max(text_encoder, run.peak) if offload else text_encoder + run.peak
    return run.weights + beside + INTERPRETER


def offload_within(
    meant: Source,
    limit: int,
    requests: Sequence[Request] = (),
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantize: str = "",
    text_encoder: bool = True,
    offload_text_encoder: bool = False,
    **others: Any,
) -> bool:
    """Whether a text encoder has to wait on the CPU so that each of the requests can be drawn; without requests, so
    that a picture of the model's first size can, or if none can, of its smallest.

    Args:
        meant: as ``sources.resolve`` found it.
        limit: bytes.
        requests: what is to be drawn.
        dtype, device, quantize, text_encoder, offload_text_encoder, others: fields of ``place.Placement``.

    Raises:
        OptionError: one of them cannot.
    """
    model, text = outline(meant), text_bytes(meant, dtype) * text_encoder
    movable = bool(text) and device.type != "cpu"
    held = Held(dtype, quantize, text, movable, movable and offload_text_encoder)

    def offloads(asked: Sequence[Request]) -> bool:
        plans = {(each.schedule, each.plan) for each in (prepare(model, request) for request in asked)}
        fits = [fitted(model, *plan, 1, limit, held) for plan in plans]
        return any(fit.offload for fit in fits)

    if requests:
        return offloads(requests)
    height, width = min(model.sizes(), key=lambda size: size[0] * size[1])
    try:
        return offloads([Request("any")])
    except OptionError:
        return offloads([Request("any", height=height, width=width)])


def text_bytes(meant: Source, dtype: torch.dtype) -> int:
    """Bytes of the weights of a model's text encoders, by their configurations."""
    return sum(meant.family.text_parameters if meant.text else ()) * dtype.itemsize


def held_by(model: ScaleModel) -> Held:
    """What a loaded model holds."""
    encoders = cast(TextReader, model.text_encoder).encoders if hasattr(model.text_encoder, "encoders") else ()
    weights = sum(tensor.nbytes for encoder in encoders for tensor in encoder.model.parameters())
    movable = bool(encoders) and model.device.type != "cpu"
    return Held(model.dtype, model.quantized, weights, movable, movable and all(each.offload for each in encoders))


def read_amount(text: str | int | None) -> int | None:
    """Bytes that a user names: a whole number, or text such as ``8GB``, ``7.5 GiB`` or ``500MB``.

    Raises:
        OptionError: it is no amount of memory.
    """
    if text is None or (isinstance(text, int) and not isinstance(text, bool) and text > 0):
        return text
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmgt]?i?)b?", str(text).strip().lower())
    bytes_ = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if bytes_ < 1:
        raise OptionError(f"max_memory must be an amount such as 8GB, 7.5GiB or 500MB, not {quoted(str(text))}")
    return bytes_


def amount(count: int) -> str:
    """Bytes as text, three digits."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{count / unit:.3g} {name}"
