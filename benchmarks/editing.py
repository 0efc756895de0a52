"""Edits and likelihoods of the shipped model, read by its oracle: ``python benchmarks/editing.py``.

A rendered picture of two coloured objects has one of them changed, in colour or in shape: all that is nearer to it
than to the other object is drawn anew (``mask``), from the second scale on. ``edited``: the new picture shows the new
caption and no third object. ``unchanged``: the other object has the shape, the colour and the place that it had.
``reconstructed``: the tokenizer's picture of the first one shows the first caption.

``likelihood``: of each rendered picture and six captions, its own and five that differ in one word or in their order,
how often its own is the likeliest. Appends a run to ``results/editing.jsonl``.

``--sheet PATH`` measures nothing: it draws the first edits as a picture, before and after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from store import append, arguments

from stagevar.pipeline import Pipeline
from stagevar.scenes.captions import COLORS, SHAPES, SPLIT, Scene
from stagevar.scenes.oracle import Found, judge, read
from stagevar.scenes.render import SIZE, Layout, draw, lay_out

Pixels = npt.NDArray[np.uint8]
Settings = dict[str, Any]

SHOWN, DARK = 6, 0.4
"""Edits of a sheet, and the brightness of what is masked there."""
NEAR = 2.0
"""Pixels by which an object that has not changed may be read elsewhere."""


@dataclass(frozen=True)
class Case:
    """A picture, and what is to become of it."""

    scene: Scene
    layout: Layout
    wanted: Scene

    @property
    def picture(self) -> Pixels:
        return draw(self.layout)

    @property
    def mask(self) -> Pixels:
        """White where a pixel is nearer to the first object than to the second."""
        rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
        first, second = ((rows - each.y) ** 2 + (columns - each.x) ** 2 for each in self.layout.objects)
        return np.where(first < second, 255, 0).astype(np.uint8)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--likelihoods", type=int, default=60)
    parser.add_argument("--accelerator", default="none")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--strength", type=float, default=0.9)
    parser.add_argument("--soft-edge", type=float, default=0.0)
    for name in ("guidance-scale", "temperature"):
        parser.add_argument(f"--{name}", type=per_scale, help="a number, or one per scale with commas")
    options = parser.parse_args()
    names = "strength", "soft_edge", "guidance_scale", "temperature"
    settings = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    pipe = Pipeline.from_pretrained("scenes", device=options.device, dtype="float32", accelerator=options.accelerator)
    rng = random.Random(0)
    cases = [case(rng) for _ in range(max(options.edits, options.likelihoods))]
    if options.sheet is not None:
        sheet(pipe, cases[:SHOWN], settings).save(options.sheet, lossless=True)
        return
    report = {"accelerator": str(pipe.accelerator), "settings": settings}
    report |= edits(pipe, cases[: options.edits], options.batch, settings)
    report["likelihood"] = likelihoods(pipe, cases[: options.likelihoods], rng)
    append("editing", options.device, report, options.out)


def per_scale(text: str) -> float | tuple[float, ...]:
    """A number, or one per scale."""
    numbers = tuple(map(float, text.split(",")))
    return numbers[0] if len(numbers) == 1 else numbers


def case(rng: random.Random) -> Case:
    """A held-out scene of two coloured objects, and the same with another colour or shape of the first."""
    while True:
        scene = SPLIT.sample(rng, rng.choice(["position", "color_attribution"]), held_out=True)
        if all(thing.color for thing in scene.things):
            first, second = scene.things
            kind = rng.choice(["color", "shape"])
            values = COLORS if kind == "color" else SHAPES
            others = [value for value in values if value not in (getattr(first, kind), getattr(second, kind))]
            wanted = replace(scene, things=(replace(first, **{kind: rng.choice(others)}), second))
            return Case(scene, lay_out(scene, rng), wanted)


def edits(pipe: Pipeline, cases: list[Case], batch: int, settings: Settings) -> dict[str, Any]:
    """How the oracle reads edits, and the reconstructions of the pictures that they began with."""
    edited, unchanged, both, reconstructed = 0, 0, 0, 0
    for start in range(0, len(cases), batch):
        some = cases[start : start + batch]
        for each, image in zip(some, changed(pipe, some, start, settings), strict=True):
            seen = read(np.asarray(image))
            right = judge(each.wanted, np.asarray(image)).strict and len(seen) == 2
            kept = stands(each, seen)
            edited, unchanged, both = edited + right, unchanged + kept, both + (right and kept)
            plain = pipe.detokenize(pipe.tokenize(each.picture))
            reconstructed += judge(each.scene, np.asarray(plain)).strict
        print(f"{start + len(some)} of {len(cases)} edits: {both} as asked", flush=True)
    count = len(cases)
    shares = {"edited": edited, "unchanged": unchanged, "as_asked": both, "reconstructed": reconstructed}
    return {"edits": count, **{name: number / count for name, number in shares.items()}}


def changed(pipe: Pipeline, cases: list[Case], seed: int, settings: Settings) -> list[Image.Image]:
    """The edited pictures; their seeds count up."""
    result = pipe(
        [each.wanted.caption for each in cases],
        image=[each.picture for each in cases],
        mask=[each.mask for each in cases],
        seed=range(seed, seed + len(cases)),
        batch_size=len(cases),
        **settings,
    )
    return result.images


def sheet(pipe: Pipeline, cases: list[Case], settings: Settings) -> Image.Image:
    """Pictures, below them their edits, twice as large; what the mask covers is dark."""
    shown = Image.new("RGB", (2 * SIZE * len(cases), 4 * SIZE))
    for column, (each, after) in enumerate(zip(cases, changed(pipe, cases, 0, settings), strict=True)):
        print(f"{each.scene.caption} -> {each.wanted.caption}")
        shade = np.where(each.mask[..., None] == 255, DARK, 1.0)
        before = Image.fromarray((each.picture * shade).astype(np.uint8))
        for row, picture in enumerate((before, after)):
            large = picture.resize((2 * SIZE, 2 * SIZE), Image.Resampling.NEAREST)
            shown.paste(large, (2 * SIZE * column, 2 * SIZE * row))
    return shown


def stands(case: Case, seen: list[Found]) -> bool:
    """Whether the second object is read where it was, as what it was."""
    other = case.layout.objects[1]
    before = min(read(case.picture), key=lambda found: abs(found.x - other.x) + abs(found.y - other.y))
    return any(
        (found.shape, found.color) == (other.shape, other.color)
        and max(abs(found.x - before.x), abs(found.y - before.y)) <= NEAR
        for found in seen
    )


def likelihoods(pipe: Pipeline, cases: list[Case], rng: random.Random) -> dict[str, Any]:
    """How often a picture's own caption is the likeliest of six, and what the picture has in nats under it."""
    right, nats = 0, 0.0
    for number, each in enumerate(cases, 1):
        captions = [each.scene.caption, *others(each.scene, rng)]
        found = [likelihood.nats for likelihood in pipe.log_likelihood(each.picture, captions)]
        right, nats = right + (max(found) == found[0]), nats + found[0]
        if not number % 10:
            print(f"{number} of {len(cases)} pictures: {right} captions found", flush=True)
    return {"pictures": len(cases), "captions": 6, "accuracy": right / len(cases), "nats": nats / len(cases)}


def others(scene: Scene, rng: random.Random) -> list[str]:
    """Five captions that a picture of a scene does not show: other colours and shapes of one object, and the colours
    exchanged."""
    first, second = scene.things
    swapped = replace(first, color=second.color), replace(second, color=first.color)
    found = {replace(scene, things=swapped).caption} - {scene.caption}
    while len(found) < 5:
        place, kind = rng.randrange(2), rng.choice(["color", "shape"])
        value = rng.choice(COLORS if kind == "color" else SHAPES)
        things = [*scene.things]
        things[place] = replace(things[place], **{kind: value})
        if value != getattr(scene.things[place], kind):
            found.add(replace(scene, things=(things[0], things[1])).caption)
    return sorted(found)


if __name__ == "__main__":
    main()
