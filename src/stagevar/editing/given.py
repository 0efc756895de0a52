"""Codes that are given: of a picture, or by the user; both as one map per scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stagevar.editing.kept import Free
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import computing
from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.errors import OptionError, quoted

Codes = tuple[Tensor, ...]
"""Per scale int64 (h, w), or (h, w, d) of models of bits; -1 where there is none."""

WHOLE = torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64
"""Dtypes of codes that a user gives."""


def check_encoder(model: ScaleModel) -> None:
    """Raise unless a model can read pictures.

    Raises:
        OptionError
    """
    if not model.encodes:
        raise OptionError(
            f"model {model.name} was loaded without the encoder of its tokenizer, so it cannot read a picture; load it "
            "with encoder=True"
        )


def read_codes(model: ScaleModel, picture: Tensor, schedule: Schedule) -> Codes:
    """The codes of a picture (3, height, width) of the model's size, on the host."""
    with computing():
        codes = model.encode(picture[None].to(model.device), schedule)
    return tuple(as_map(each[0], grid) for each, grid in zip(codes, schedule, strict=True))


def as_map(codes: Tensor, grid: Grid) -> Tensor:
    """Codes (M,) or (M, d) of one picture and scale as a map on the host, which its owner may change."""
    return codes.unflatten(0, grid).cpu().clone()


def kept(codes: Codes, where: Free) -> Codes:
    """Codes with -1 where they are drawn."""
    return tuple(
        code.masked_fill(here if code.dim() == 2 else here[..., None], -1)
        for code, here in zip(codes, where, strict=True)
    )


def check_maps(given: Any) -> tuple[Tensor | None, ...]:
    """What a user gives as codes of one picture, if it has one map per scale.

    Raises:
        OptionError: anything else.
    """
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise OptionError(f"codes are a list with a map per scale, as tokenize gives it, not {quoted(given)}")
    for k, codes in enumerate(given):
        if codes is not None and not _whole(codes):
            kind = f"one of {codes.dtype}" if isinstance(codes, Tensor) else quoted(codes)
            raise OptionError(f"codes of scale {k} must be a dense tensor of whole numbers (h, w), or None, not {kind}")
    return tuple(given)


def _whole(codes: Any) -> bool:
    """Whether it is a map of whole numbers that can be read."""
    return (
        isinstance(codes, Tensor)
        and codes.dtype in WHOLE
        and codes.layout == torch.strided
        and not codes.is_meta
        and codes.dim() in (2, 3)
        and codes.numel() > 0
    )


def check_given(model: ScaleModel, given: Sequence[Tensor | None], schedule: Schedule) -> Free:
    """Where codes are drawn beside those that a user gives.

    Raises:
        OptionError: maps of other shapes than the schedule's, or codes that the model does not have.
    """
    if len(given) != len(schedule):
        raise OptionError(
            f"there are codes of {len(given)} scales, and the picture has {len(schedule)}; None draws one"
        )
    found = []
    for k, (codes, grid) in enumerate(zip(given, schedule, strict=True)):
        count, each = model.code_space(k)
        if codes is None:
            found.append(torch.ones(grid, dtype=torch.bool))
            continue
        if tuple(codes.shape) != (*grid, *each):
            raise OptionError(f"codes of scale {k} must be a tensor {(*grid, *each)}, not {tuple(codes.shape)}")
        if not -1 <= int(codes.min()) <= int(codes.max()) < count:
            raise OptionError(f"codes of scale {k} lie between 0 and {count - 1}, or are -1 where one is drawn")
        found.append(codes.cpu().view(*grid, -1).lt(0).any(-1))
    return tuple(found)


def stacked(
    model: ScaleModel, pictures: Sequence[Sequence[Tensor | None] | None], schedule: Schedule
) -> dict[int, Tensor]:
    """Given codes of the pictures of a batch as the loop takes them: per scale (n, M) or (n, M, d), -1 where one is
    drawn; only the scales of which some picture has codes."""
    found = {}
    for k in range(len(schedule)):
        here = [None if codes is None else codes[k] for codes in pictures]
        if any(codes is not None for codes in here):
            none = model.no_codes(1, Scale(schedule, k))[0].cpu()
            found[k] = torch.stack([none if codes is None else codes.cpu().long().flatten(0, 1) for codes in here])
    return found
