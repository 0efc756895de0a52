"""The contract between the loop and a model: what a model supplies, and what its blocks are given.

A model supplies pure pieces; it owns no cache, no random numbers and no guidance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn

from stagevar.loop.plan import Branch, Grid, ScalePlan, Schedule
from stagevar.loop.sample import Uniforms
from stagevar.loop.text import Text

Noise = Callable[[int], Tensor]
"""``noise(channels)`` -> (n, r, channels): normal numbers per image and token, keyed by seed, scale and position."""

Attend = Callable[..., Tensor]
"""``attend(q, k, v, scale=...)`` -> (R, H, M, D): self-attention of new rows over the cached ones and themselves."""


@dataclass(frozen=True)
class Condition:
    """All that depends on the prompt alone, computed once per image: R rows, the prompts' rows before the null rows.

    Attributes:
        start: (R, C) or (R, T, C) input of the first scale.
        pooled: (R, C) vector that the head (and a family's embedding) may use.
        modulation: per layer (R, 6, C) adaptive-norm vectors, or empty.
        text_kv: per layer the (R, H, T, D) keys and values of cross-attention, or empty.
        text_mask: (R, T) bool, True at real text, or None if all rows are full.
    """

    start: Tensor
    pooled: Tensor
    modulation: tuple[Tensor, ...] = ()
    text_kv: tuple[tuple[Tensor, Tensor], ...] = ()
    text_mask: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.start.shape[0]

    def take(self, rows: Tensor) -> Self:
        """The given rows only."""
        taken: dict[str, Any] = {f.name: _take(getattr(self, f.name), rows) for f in fields(self)}
        return replace(self, **taken)


def _take(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, tuple):
        return tuple(_take(part, rows) for part in value)
    return value


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What a part of a block sees besides the hidden state.

    Attributes:
        layer: index of the block.
        condition: the rows' condition.
        rope: (M, P, 2) or (R, M, P, 2) cosine and sine of each processed row and channel pair (or channel, as the
            family's attention reads it), or None.
        attend: self-attention over cache and new rows.
    """

    layer: int
    condition: Condition
    rope: Tensor | None
    attend: Attend


class Part(Protocol):
    """A residual sub-layer: ``(x (R, M, C), context) -> increment (R, M, C)``, its gain applied."""

    def __call__(self, x: Tensor, context: BlockContext) -> Tensor: ...


class Block(nn.Module):
    """A block is its parts in order; the loop adds each part's increment to the residual stream."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(self.children())

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        for part in self.parts:
            x = x + part(x, context)
        return x


@dataclass(frozen=True, slots=True)
class Defaults:
    """A model's own sampling settings; a tuple has one entry per scale of the longest schedule. ``smooth`` means
    smoothed sampling as in ``ScaleModel.smooth_schedule``."""

    guidance: float | tuple[float, ...] = 1.0
    temperature: float | tuple[float, ...] = 1.0
    top_k: int | tuple[int, ...] = 0
    top_p: float = 1.0
    smooth: bool = False


class ScaleModel(nn.Module, ABC):
    """A next-scale generator with its image tokenizer.

    Names of shapes: n images, R rows (n or 2n), M = h * w tokens of a scale, C width, D latent channels, (H, W) the
    final grid of the latent.
    """

    name: str
    family: str
    defaults: Defaults
    causal: bool = True
    """Whether a scale attends to the scales before it (else only to itself, and nothing is cached)."""
    mixes_codes: bool = False
    """Whether ``add_codes`` takes weights over the codes too, so that sampling can be smoothed."""
    mixes_unlikely: bool = False
    """Whether smoothed sampling mixes all codes, or only those that top-k and top-p keep."""
    samples: tuple[str, ...] = (
        "a photo of a red fox in fresh snow",
        "an old lighthouse at dusk, oil painting",
        "a bowl of ramen with a soft-boiled egg",
        "two wooden chairs beside a round table",
        "a portrait of an astronaut holding a cat",
        "a narrow street in the rain, neon signs",
        "a stack of books with a cup of tea on top",
        "a glass terrarium full of moss and ferns",
    )
    """Prompts for demonstrations and comparisons where none are given."""
    blocks: nn.ModuleList
    embedding: tuple[str, ...] = ("word",)
    """Modules that every token passes in ``embed``, for those who count operations."""
    groups: int = 1
    """Chunks of equally many consecutive blocks, the unit of group-wise token reduction."""
    config: Any
    """The frozen dataclass that the network was built from."""
    text_encoder: Callable[[Sequence[str]], Text] | None = None
    """Prompts to states, where that is another network's business; no ``nn.Module``, set by whoever loads the model."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: that of the blocks' weights."""
        return next(self.blocks.parameters()).dtype

    @property
    def layers(self) -> list[Block]:
        """The blocks in order."""
        return [cast(Block, block) for block in self.blocks]

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @abstractmethod
    def sizes(self) -> list[Grid]:
        """All (height, width) in pixels that ``schedule`` takes."""

    @abstractmethod
    def schedule(self, height: int | None = None, width: int | None = None) -> Schedule:
        """The grids for a picture of ``height`` x ``width`` pixels (None: the default size).

        Raises:
            SizeError: the size is not in the model's table; names the nearest ones.
        """

    @abstractmethod
    def picture_size(self, schedule: Schedule) -> tuple[int, int]:
        """Height and width in pixels of what ``decode`` returns for ``schedule``."""

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Prompts to encoder states.

        Raises:
            PromptError: empty, over-long, or unknown words.
        """

    @abstractmethod
    def blank_text(self, length: int) -> Text:
        """One text in the shape of an encoded prompt of ``length`` tokens, where a prompt's length matters: for those
        who measure without a text encoder."""

    @abstractmethod
    def condition(self, text: Text, negative: Text | None = None) -> Condition:
        """The condition of n images: 2n rows, prompts first. ``negative`` replaces the model's own null text; an
        empty feature entry in it keeps the null text for that image."""

    def guidance_schedule(self, strength: float, schedule: Schedule) -> tuple[float, ...]:
        """The weight w per scale for a user's guidance strength (families differ: flat, or a ramp)."""
        return (strength,) * len(schedule)

    def smooth_schedule(self, schedule: Schedule) -> tuple[float | None, ...]:
        """Per scale the strength of smoothed sampling where it is wanted (``ScalePlan.smooth``): from 0 up to 1."""
        return tuple(k / max(len(schedule) - 1, 1) for k in range(len(schedule)))

    def branches(self, schedule: Schedule) -> tuple[Branch, ...]:
        """Which branches run per scale by default; a family may end guidance early (``cond`` from some scale on)."""
        both: tuple[Branch, ...] = ("both",)
        return both * len(schedule)

    @abstractmethod
    def empty_latent(self, n: int, schedule: Schedule) -> Tensor:
        """Zeros (n, D, H, W)."""

    def rows(self, schedule: Schedule, k: int) -> int:
        """Rows of the residual stream at scale k: its h * w tokens and, ahead of them, what is only there to be
        attended to (a prompt that is read as part of the sequence)."""
        return schedule[k][0] * schedule[k][1]

    @abstractmethod
    def embed(self, latent_nDHW: Tensor, condition: Condition, schedule: Schedule, k: int) -> Tensor:
        """Input of the first block at scale k: (R, ``rows``, C)."""

    def rope(self, schedule: Schedule, k: int, condition: Condition) -> Tensor | None:
        """(``rows``, P, 2) cosine and sine of scale k's rows, (R, ``rows``, P, 2) where they depend on the text, or
        None."""
        return None

    @abstractmethod
    def logits(self, x_RMC: Tensor, condition: Condition, k: int) -> Tensor:
        """(R, M, V) for vector-quantised codes or (R, M, d, 2) for bits, float32."""

    def draw(
        self,
        x_RMC: Tensor,
        logits_nMV: Tensor,
        condition: Condition,
        schedule: Schedule,
        k: int,
        plans: Sequence[ScalePlan],
        seeds: Sequence[int],
        noise: Uniforms,
        index_nr: Tensor | None = None,
    ) -> Tensor | None:
        """Codes of scale k by a procedure of the model's own, or None to leave them to ``sample.sample``.

        Args:
            x_RMC: hidden states behind the last block.
            logits_nMV: made of them, guided and divided by the temperature.
            condition, schedule, k: as in ``logits`` and ``embed``.
            plans, seeds, noise, index_nr: as in ``sample.sample``.

        Returns:
            Codes as ``add_codes`` takes them.
        """
        return None

    @abstractmethod
    def add_codes(
        self, latent_nDHW: Tensor, codes: Tensor, schedule: Schedule, k: int, index_nr: Tensor | None = None
    ) -> Tensor:
        """A new latent: the old one plus the upsampled codes of scale k, int64 (n, M) or (n, M, d); where a model
        ``mixes_codes``, also weights over the codes, float (n, M, V).

        With ``index`` the codes (n, r) or (n, r, d) belong to these raster positions and the others add nothing.
        """

    def residual(
        self,
        x_RMC: Tensor,
        codes: Tensor,
        condition: Condition,
        schedule: Schedule,
        k: int,
        guidance: Sequence[float],
        noise: Noise,
        index_nr: Tensor | None = None,
    ) -> Tensor | None:
        """What is added to the latent behind the codes of scale k, (n, D, H, W), or None.

        Args:
            x_RMC: hidden states that the codes were drawn from.
            codes, index_nr: as in ``add_codes``.
            guidance: weight of each image; it counts where both branches ran (R = 2n).
            noise: the random numbers to use.
        """
        return None

    def finishing(self, schedule: Schedule, k: int) -> tuple[tuple[nn.Module, int], ...]:
        """Modules behind the head that every row of scale k passes in ``draw`` or ``residual``, and how often: for
        those who count operations."""
        return ()

    @abstractmethod
    def decode(self, latent_nDHW: Tensor) -> Tensor:
        """Pictures (n, 3, height, width), float32 in [0, 1]."""
