"""The contract between the loop and a model: what a model supplies, and what its blocks are given.

A model supplies pure pieces; it owns no cache, no random numbers and no guidance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stagevar.engine.contract.block import Block, Condition
from stagevar.engine.contract.drawing import Drawing
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Grid, Scale, Schedule
from stagevar.engine.grids.latent import detail
from stagevar.engine.grids.rows import Branch, expand_rows


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
    shared_codes: bool = True
    """Whether a code means the same at every scale, so that logits of scales can be compared."""
    mixes_codes: bool = False
    """Whether ``add_codes`` takes weights over the codes too, so that sampling can be smoothed."""
    mixes_unlikely: bool = False
    """Whether smoothed sampling mixes all codes, or only those that top-k and top-p keep."""
    restores: bool = False
    """Whether it draws the picture that it is given anew, without its faults (``seeing``)."""
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
    suite: str = ""
    """Name of the suite that asks the model and reads its pictures (``stagevar.measure.suites``), if there is one."""
    blocks: nn.ModuleList
    embedding: tuple[str, ...] = ("word",)
    """Modules that every token passes in ``embed``, for those who count operations."""
    groups: int = 1
    """Chunks of equally many consecutive blocks, the unit of group-wise token reduction."""
    config: Any
    """The frozen dataclass that the network was built from."""
    quantized: str = ""
    """What the weights of the blocks' linear layers are rounded to, such as ``int8``; the loader sets it."""
    folder: Path | None = None
    """Where it lies, if in a folder of its own, perhaps beside numbers that were fitted to it; the loader sets it."""
    text_encoder: Callable[[Sequence[str]], Text] | None = None
    """Maps prompts to encoder states, if a separate network does that. Kept out of ``state_dict`` on purpose (not an
    ``nn.Module``); the loader sets it."""

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

    def seeing(self, condition: Condition, pictures: Tensor) -> Condition:
        """The condition of n images that begin with pictures (n, 3, height, width) in [0, 1]. Rules see where these
        have contrast; a model that restores sees all of them."""
        return replace(condition, detail=expand_rows(detail(pictures), condition.rows))

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

    def rows(self, at: Scale) -> int:
        """Length of the residual stream at a scale: h * w tokens, preceded by any rows that are attended to but yield
        no codes, such as a prompt inside the sequence (HART)."""
        return at.tokens

    @abstractmethod
    def embed(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor:
        """Input of the first block: (R, ``rows``, C)."""

    def rope(self, at: Scale, condition: Condition) -> Tensor | None:
        """(``rows``, P, 2) cosine and sine of the scale's rows, (R, ``rows``, P, 2) where they depend on the text, or
        None."""
        return None

    @abstractmethod
    def logits(self, x_RMC: Tensor, condition: Condition, at: Scale) -> Tensor:
        """(R, M, V) for vector-quantised codes or (R, M, d, 2) for bits, float32."""

    def draw(self, x_RMC: Tensor, logits_nMV: Tensor, drawing: Drawing) -> Tensor | None:
        """Codes of a scale by a procedure of the model's own, or None to leave them to the loop.

        Args:
            x_RMC: hidden states behind the last block.
            logits_nMV: made of them, guided and divided by the temperature.
            drawing: settings and random numbers.

        Returns:
            Codes as ``add_codes`` takes them.
        """
        return None

    def evidence(self, latent_nDHW: Tensor, condition: Condition, at: Scale) -> Tensor | None:
        """What is known of the codes besides what the network says, added to its logits: (n, M, V); None if nothing is.

        Args:
            latent_nDHW: of n images before the scale.
            condition: of their rows.
        """
        return None

    @abstractmethod
    def code_space(self, k: int) -> tuple[int, tuple[int, ...]]:
        """How many values a code of scale k has, and the shape of a token's codes: ``(V, ())`` or ``(2, (d,))``."""

    def no_codes(self, n: int, at: Scale) -> Tensor:
        """Codes (n, M) or (n, M, d) of a scale that has none: -1."""
        return torch.full((n, at.tokens, *self.code_space(at.k)[1]), -1, device=self.device)

    @property
    def encodes(self) -> bool:
        """Whether the model has what ``encode`` needs."""
        return True

    @abstractmethod
    def encode(self, pictures: Tensor, schedule: Schedule) -> list[Tensor]:
        """Codes of every scale, int64 (n, M) or (n, M, d), of pictures (n, 3, height, width) in [0, 1] of the size that
        ``schedule`` draws. The tokenizer quantises what the scales before have left."""

    @abstractmethod
    def add_codes(
        self,
        latent_nDHW: Tensor,
        codes: Tensor,
        schedule: Schedule,
        k: int,
        index_nr: Tensor | None = None,
        gain_nr: Tensor | None = None,
    ) -> Tensor:
        """A new latent: the old one plus the upsampled codes of scale k, int64 (n, M) or (n, M, d); where a model
        ``mixes_codes``, also weights over the codes, float (n, M, V).

        With ``index`` the codes (n, r) or (n, r, d) belong to these raster positions and the others add nothing.
        ``gain`` multiplies what the code of each token adds, (n, M) or (n, r).
        """

    def residual(self, x_RMC: Tensor, codes: Tensor, drawing: Drawing) -> Tensor | None:
        """What is added to the latent behind the codes of a scale, (n, D, H, W), or None.

        Args:
            x_RMC: hidden states that the codes were drawn from.
            codes: as in ``add_codes``.
            drawing: settings and random numbers.
        """
        return None

    def over_heads(self, share: Tensor) -> Tensor:
        """A mean over the heads of all devices, given that over this one's."""
        return share

    def finishing(self, at: Scale) -> tuple[tuple[nn.Module, int, int], ...]:
        """Modules behind the head that every row of a scale passes in ``draw`` or ``residual``, how often, and how many
        rows go with those of the tokens: for those who count operations."""
        return ()

    @abstractmethod
    def decode(self, latent_nDHW: Tensor) -> Tensor:
        """Pictures (n, 3, height, width), float32 in [0, 1]."""
