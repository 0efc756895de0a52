"""Takes what a scale's plan watches, while the scale runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.sent import per_image
from stagevar.engine.plan.watch import Activity, AttentionEntropy, CodeEntropy, Seen, Watch


class Watching:
    """The maps of one pass of n images, as it comes by what its plan watches.

    Args:
        model, at: what runs.
        watch: what is watched.
        n: images.
    """

    def __init__(self, model: ScaleModel, at: Scale, watch: tuple[Watch, ...], n: int) -> None:
        self.model, self.at, self.watch, self.n = model, at, watch, n
        self.ahead = model.rows(at) - at.tokens
        self.maps: dict[Watch, Tensor] = {}
        self._before: dict[Watch, Tensor] = {}

    def attention(self, layer: int, q_RHMD: Tensor, k_RHLD: Tensor, scale: float) -> None:
        """Self-attention of all rows of a block to all its keys."""
        for watch in self.watch:
            if isinstance(watch, AttentionEntropy) and watch.layer(self.model.depth) == layer:
                rows = watch.rows(q_RHMD[:, :, self.ahead :], k_RHLD, scale)
                self._note(watch, self.model.over_heads(rows))

    def before(self, layer: int, x_RMC: Tensor) -> None:
        """The stream before a block."""
        for watch, blocks in self._activities():
            if layer == blocks[0]:
                self._before[watch] = x_RMC

    def behind(self, layer: int, x_RMC: Tensor) -> None:
        """The stream behind a block."""
        for watch, blocks in self._activities():
            if layer == blocks[-1]:
                before = self._before.pop(watch)
                self._note(watch, watch.rows(before[:, self.ahead :], x_RMC[:, self.ahead :]))

    def codes(self, logits_nMV: Tensor, temperatures: Sequence[float]) -> None:
        """The logits that codes are drawn from, and by what they were divided."""
        for watch in self.watch:
            if isinstance(watch, CodeEntropy):
                self._note(watch, watch.rows(logits_nMV * per_image(temperatures, logits_nMV)))

    def _activities(self) -> Iterator[tuple[Activity, range]]:
        return ((watch, watch.blocks(self.model.depth)) for watch in self.watch if isinstance(watch, Activity))

    def _note(self, watch: Watch, rows_RM: Tensor) -> None:
        """Keep a map as a mean over branches."""
        self.maps[watch] = rows_RM.view(-1, self.n, rows_RM.shape[1]).mean(0)


def numbers(
    model: ScaleModel, at: Scale, watch: Sequence[Watch], maps: Mapping[Watch, Tensor], latent: Tensor, change: Tensor
) -> Iterator[Tensor]:
    """Of each watch in order (n, its numbers), once the scale's codes are added to the latent."""
    for each in watch:
        seen = Seen(at, maps.get(each), latent, change, model.decode, model.picture_size)
        yield each.numbers(seen).float()
