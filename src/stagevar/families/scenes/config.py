"""Shape of the shipped model."""

from __future__ import annotations

from dataclasses import dataclass

from stagevar.errors import quoted
from stagevar.families.scenes.worlds import WORLDS

PATCH = 2

CHANNELS = 3 * PATCH**2

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class ScenesConfig:
    """Shape of the network and its tokenizer.

    Attributes:
        width, depth, heads: channels, blocks and attention heads of the transformer.
        text_depth: layers of the text encoder.
        grids: side of each scale's grid; the last grid is the latent's.
        codes: codebook entries used at each scale.
        world: what it draws, a key of ``worlds.WORLDS``.
        restores: whether it sees a picture, which it draws without its faults (``restoring.Restoring``).
    """

    width: int = 256
    depth: int = 6
    heads: int = 4
    text_depth: int = 2
    grids: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    codes: tuple[int, ...] = (128, 128, 256, 256, 256, 256, 512, 512, 512, 512)
    world: str = "scenes"
    restores: bool = False

    def __post_init__(self) -> None:
        if self.heads < 1 or self.width < 1 or self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 4 times {self.heads} heads")
        if self.depth < 1 or self.text_depth < 1:
            raise ValueError(f"depth {self.depth} and text_depth {self.text_depth} must be 1 or more")
        if len(self.grids) != len(self.codes) or not self.grids:
            raise ValueError(f"{len(self.grids)} grids and {len(self.codes)} codebooks; give one for each scale")
        if any(not isinstance(number, int) or not 0 < number <= 4096 for number in (*self.grids, *self.codes)):
            raise ValueError("grids and codes must be whole numbers between 1 and 4096")
        if list(self.grids) != sorted(self.grids):
            raise ValueError(f"grids {self.grids} must grow")
        if self.restores and self.grids[-1] % 2:
            raise ValueError(f"a network that restores halves its last grid, and {self.grids[-1]} is odd")
        if self.world not in WORLDS:
            raise ValueError(f"unknown world {quoted(self.world)}; there are {', '.join(WORLDS)}")
