"""What comes back: an event per scale, and the result of a whole call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

from PIL.Image import Image
from PIL.Image import new as new_image
from torch import Tensor

from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.plan import Plan

OutputType = Literal["pil", "np", "pt", "latent"]

OUTPUT_TYPES: tuple[OutputType, ...] = ("pil", "np", "pt", "latent")


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """Pictures and the record of how they came about.

    Attributes:
        images: per ``output_type``: PIL images; float arrays (height, width, 3) in [0, 1]; tensors (3, height, width)
            in [0, 1]; or latents (D, H, W). None for a picture that was not wanted any more.
        codes: of each image, per scale int64 (h, w), or (h, w, d) of models of bits: what its latent is the sum of. A
            code is -1 where none was added. Where codes are mixed it is the likeliest one. ``detokenize`` makes the
            picture of them; given as ``forced`` they draw that of a plain run again, as -1 asks for a code to draw.
        prompts, seeds: prompt and seed of each image.
        sizes: height and width in pixels of each image; the nearest size that the model draws to the one asked for.
        notes: how a picture that was given has been fitted to that size; "" where nothing was.
        trace: record of what really ran.
    """

    images: list[Any]
    codes: list[tuple[Tensor, ...]]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]
    trace: Trace

    def __repr__(self) -> str:
        sizes = " and ".join(f"{w}x{h}" for h, w in dict.fromkeys(self.sizes))
        seeds = ", ".join(map(str, self.seeds[:4])) + (", ..." if len(self.seeds) > 4 else "")
        count = len(self.images)
        return f"Result({count} picture{'s' * (count > 1)} of {sizes}, seeds {seeds}; {self.trace!r})"

    def _repr_png_(self) -> bytes | None:
        """The first eight pictures in a row, for notebooks; None if they are no PIL images."""
        shown = [image for image in self.images[:8] if isinstance(image, Image)]
        if not shown:
            return None
        sheet = new_image("RGB", (sum(image.width for image in shown), max(image.height for image in shown)), "white")
        left = 0
        for image in shown:
            sheet.paste(image, (left, 0))
            left += image.width
        sheet.save(buffer := BytesIO(), format="png")
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class ScaleEvent:
    """One scale of one batch has been drawn.

    Attributes:
        scale: index of the scale, 0-based; ``scales`` is how many there are.
        grid: its height and width in tokens.
        images: indices within the call of the pictures that this batch holds and that are still wanted.
        milliseconds: wall-clock time of the batch's passes at this scale.
        latent: (n, D, H, W), decodable after every scale.
        plans: plans of these pictures as they stand; an accelerator may revise them between scales.
        result: result of the whole call, on its last event; None before.
        decode: starts to turn latents (n, D, H, W) into pictures; a call of what it returns waits for them.
    """

    scale: int
    scales: int
    grid: tuple[int, int]
    images: tuple[int, ...]
    milliseconds: float
    latent: Tensor = field(repr=False)
    plans: tuple[Plan, ...] = field(repr=False)
    result: Result | None
    decode: Callable[[Tensor], Callable[[], list[Image]]] = field(repr=False)

    def start_previews(self) -> Callable[[], list[Image]]:
        """Start to decode the batch's pictures as they stand; a call of what is returned waits for them. On CUDA the
        next scale runs meanwhile, if the pictures are asked for behind its event."""
        return self.decode(self.latent)

    @property
    def previews(self) -> list[Image]:
        """The batch's pictures as they stand, decoded when asked for."""
        return self.start_previews()()

    @property
    def preview(self) -> Image:
        """The first of ``previews``."""
        return self.decode(self.latent[:1])()[0]
