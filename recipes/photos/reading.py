"""Trains the reader of pictures on renders: the class of every cell, and the place."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from photos.material import SIDES, SIZE, VIEWS
from photos.render import Layout, Picture, Placed, Renderer, lay_out
from tokenizer import coded
from torch import Tensor

from stagevar.families.scenes.tokenizer import PatchQuantizer
from stagevar.photos.captions import OBJECTS, PLACES, sample_scene
from stagevar.photos.reader import CELL, OTHER, Reader

Example = tuple[Picture, npt.NDArray[np.int64], int]

_CLASS = {thing: 1 + index for index, thing in enumerate(OBJECTS)}
_PLACE = {place: index for index, place in enumerate(PLACES)}


def train_reader(
    reader: Reader, renderer: Renderer, tokenizer: PatchQuantizer, seed: int, steps: int = 1200, count: int = 32
) -> None:
    """Fill ``reader``: AdamW, one cycle of the learning rate, ``count`` pictures a step."""
    torch.manual_seed(seed)
    fast = reader.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(fast.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for step in range(steps):
        pictures, cells, places = examples(renderer, tokenizer, random.Random(f"reader {seed} {step}"), count)
        with torch.autocast(pictures.device.type, torch.bfloat16):
            seen, where = fast(pictures.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(seen.float(), cells) + 0.2 * F.cross_entropy(where.float(), places)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            print(f"reader, step {step}: loss {float(loss.detach()):.3f}", flush=True)
    reader.requires_grad_(False).eval()


@torch.no_grad()
def examples(
    renderer: Renderer, tokenizer: PatchQuantizer, rng: random.Random, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 3, 64, 64), the classes of their cells (n, 16, 16) and their places (n,).

    Half of the layouts are those of captions of training, the others have objects anywhere. A quarter of the objects
    of the latter are spoilt and belong to no class. A quarter of the pictures have gone through the tokenizer's codes.
    """
    drawn = [
        spoilt(renderer, anywhere(rng), rng) if index % 2 else labelled(renderer, lay_out(sample_scene(rng), rng))
        for index in range(count)
    ]
    pictures = torch.from_numpy(np.stack([picture for picture, _, _ in drawn])).permute(0, 3, 1, 2).float() / 255
    cells = torch.from_numpy(np.stack([labels for _, labels, _ in drawn]))
    pictures[-count // 4 :] = coded(tokenizer, pictures[-count // 4 :])
    strength = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    pictures = pictures + 0.06 * strength**2 * torch.randn(pictures.shape)
    return pictures.clamp(0, 1), cells, torch.tensor([place for _, _, place in drawn])


def labelled(renderer: Renderer, layout: Layout) -> Example:
    """A picture, the classes of its cells (16, 16) and the index of its place."""
    labels = np.zeros((SIZE, SIZE), dtype=np.int64)
    for placed in layout.objects:
        labels[renderer.opaque(placed)] = _CLASS[placed.thing]
    return renderer.draw(layout), labels[CELL // 2 :: CELL, CELL // 2 :: CELL], _PLACE[layout.place]


def spoilt(renderer: Renderer, layout: Layout, rng: random.Random) -> Example:
    """The same, but a quarter of the objects have their tiles shuffled and belong to no class."""
    picture, cells, place = labelled(renderer, layout)
    for placed in layout.objects:
        if rng.random() < 0.25:
            mask = renderer.opaque(placed)
            picture[mask] = shuffled(picture, placed, rng)[mask]
            cells[mask[CELL // 2 :: CELL, CELL // 2 :: CELL]] = OTHER
    return picture, cells, place


def anywhere(rng: random.Random) -> Layout:
    """One to four objects at random centres, at least 28 pixels apart unless there is one."""
    number = rng.choice((1, 1, 2, 3, 4))
    if number == 1:
        spots = [(rng.randrange(24, 41), rng.randrange(24, 41))]
    else:
        spots = [(x + rng.randrange(-1, 2), y + rng.randrange(-1, 2)) for x in (16, 48) for y in (16, 48)]
    chosen = rng.sample(spots, number)
    side = SIDES[number > 1]
    objects = tuple(Placed(rng.choice(OBJECTS), x, y, side) for x, y in chosen)
    return Layout(rng.choice(tuple(PLACES)), rng.randrange(VIEWS), objects)


def shuffled(picture: Picture, placed: Placed, rng: random.Random) -> Picture:
    """The picture with tiles of an object shuffled, so that its colours are left and its form is not."""
    tile = rng.choice((4, 6, 8))
    top, left = max(0, placed.y - placed.side // 2), max(0, placed.x - placed.side // 2)
    places = [
        (y, x)
        for y in range(top, min(SIZE, top + placed.side) - tile + 1, tile)
        for x in range(left, min(SIZE, left + placed.side) - tile + 1, tile)
    ]
    out = picture.copy()
    for (y, x), (v, u) in zip(places, rng.sample(places, len(places)), strict=True):
        out[y : y + tile, x : x + tile] = picture[v : v + tile, u : u + tile]
    return out
