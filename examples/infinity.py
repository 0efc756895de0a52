"""Infinity: one prompt by the plain run and by an accelerator with the same noise, side by side in infinity.png.

    python examples/infinity.py "a red fox in fresh snow" --size 1024x1024
    python examples/infinity.py "a red fox in fresh snow" --tiny --size 56x70    # a random network, without downloads

``stagevar doctor infinity-2b`` says what the published model needs.
"""

import argparse

from PIL import Image

from stagevar import Pipeline
from stagevar.families.tiny import tiny

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--accelerator", default="stagevar", help="such as 'drop_last(1)'; see `stagevar accelerators`")
parser.add_argument("--size", help="width x height in pixels; the nearest of 60 sizes is drawn")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tiny", action="store_true")
given = parser.parse_args()

pipeline = Pipeline(tiny("infinity")) if given.tiny else Pipeline.from_pretrained("infinity-2b")
width, height = map(int, given.size.split("x")) if given.size else (None, None)
pictures = []
for accelerator in ("none", given.accelerator):
    result = pipeline(given.prompt, seed=given.seed, height=height, width=width, accelerator=accelerator)
    pictures += result.images
    print(f"{accelerator}: {result.trace.network_milliseconds:.0f} ms, {result.sizes[0]} pixels")
sheet = Image.new("RGB", (2 * pictures[0].width, pictures[0].height))
for column, picture in enumerate(pictures):
    sheet.paste(picture, (column * picture.width, 0))
sheet.save("infinity.png")
