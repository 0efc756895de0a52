"""Where rows ran: for every scale of one picture, the share of the network that each place of the grid has passed."""

from __future__ import annotations

import torch
from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Scale, Schedule


class RowsRan:
    """A tap of the loop for the run of one picture.

    Attributes:
        shares: per scale (h, w) in [0, 1]: parts of the blocks that processed the place over all parts, a mean over
            branches. Zero at scales that the network did not run. Rows that stand for regions, or are mixtures of all
            rows, count for every place alike.
    """

    def __init__(self, model: ScaleModel, schedule: Schedule) -> None:
        self.shares = [torch.zeros(grid) for grid in schedule]
        self._ahead = [model.rows(at) - at.tokens for at in (Scale(schedule, k) for k in range(len(schedule)))]
        self._parts = sum(len(block.parts) for block in model.layers)
        self._stream: dict[int, Tensor] = {}
        self._chosen: dict[int, Tensor] = {}

    def __call__(self, name: str, k: int, tensor: Tensor) -> None:
        kind, tokens = name.partition(".")[0], self.shares[k].numel()
        if kind in ("embed", "group") and tensor.shape[1] == tokens + self._ahead[k]:
            self._stream[k] = torch.ones(len(tensor), tokens)
        elif kind == "reduced":
            self._stream[k] = torch.full((len(tensor), tokens), tensor.shape[1] / tokens)
        elif kind == "places":
            self._stream[k] = torch.zeros(len(tensor), tokens).scatter(1, tensor.cpu(), 1.0)
        elif kind == "chosen":
            self._chosen[k] = tensor.cpu() - self._ahead[k]
        elif kind == "part":
            self._add(k)

    def _add(self, k: int) -> None:
        """Count one part, which has run on the stream's rows or on those chosen from it."""
        stream, chosen = self._stream[k], self._chosen.pop(k, None)
        if chosen is not None:
            stream = torch.stack([_narrowed(*each) for each in zip(stream, chosen, strict=True)])
        self.shares[k] += stream.mean(0).view_as(self.shares[k]) / self._parts


def _narrowed(stream_M: Tensor, chosen: Tensor) -> Tensor:
    """The share of each place where only some of the stream's rows are processed; negative ones stand ahead of it."""
    chosen = chosen[chosen >= 0]
    places = stream_M.nonzero()[:, 0]
    if stream_M[places].ne(1).any():  # rows without places of their own
        return stream_M * len(chosen) / stream_M.sum().round()
    return torch.zeros_like(stream_M).scatter(0, places[chosen], 1.0)
