"""Where a picture is drawn anew: from which scale on, and at which positions of a mask; all other codes are kept."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.editing.edit import Edit
from stagevar.editing.fit import Fitted
from stagevar.engine.grids.grid import Schedule
from stagevar.errors import OptionError

COVERED = 0.5
"""Share of a position's area that a mask covers where its code is drawn."""

Free = tuple[Tensor, ...]
"""Per scale (h, w): where codes are drawn."""


def free(edit: Edit, fit: Fitted, schedule: Schedule, restores: bool = False) -> Free:
    """Where the codes of an edit are drawn, by a model that restores or not.

    Raises:
        OptionError: nowhere, though a mask or an enlarged picture asks for some.
    """
    share = edit.drawn(restores)
    first = _first(edit, fit, schedule, share)
    found = []
    for k, grid in enumerate(schedule):
        here = torch.ones(grid, dtype=torch.bool)
        if fit.drawn is not None:
            grown = edit.soft_edge * k / max(len(schedule) - 1, 1)
            here = F.adaptive_avg_pool2d(_grown(fit.drawn, round(grown))[None], grid)[0] >= COVERED
        found.append(here & torch.tensor(k >= first))
    if not any(bool(each.any()) for each in found) and (share or edit.upscale):
        if edit.upscale is not None:
            raise OptionError("upscale leaves nothing to draw: the picture is as fine as the model's own; use strength")
        raise OptionError("the mask is smaller than one token of the picture; make more of it white")
    return tuple(found)


def _first(edit: Edit, fit: Fitted, schedule: Schedule, share: float) -> int:
    """The first scale that is drawn, of an enlarged picture or by the share that is."""
    if edit.upscale is not None:
        known = schedule[-1][0] * schedule[-1][1] * min(fit.detail, 1.0) ** 2
        return sum(h * w <= known * 1.001 for h, w in schedule)
    return len(schedule) - (max(1, math.ceil(share * len(schedule) - 1e-9)) if share else 0)


def _grown(drawn_HW: Tensor, pixels: int) -> Tensor:
    """The map with its bright parts grown by so many pixels."""
    if not pixels:
        return drawn_HW
    return F.max_pool2d(drawn_HW[None, None], 2 * pixels + 1, 1, pixels)[0, 0]
