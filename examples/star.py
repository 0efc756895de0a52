"""STAR: the same prompt plain and accelerated, side by side in star.png, and how long both took.

    python examples/star.py "a lighthouse in a storm"
    python examples/star.py "a lighthouse in a storm" --tiny      # a random network, without downloads

``stagevar doctor star-1024`` says what the published model needs. A model with the second stage may go without it:
``pipeline.model.second_stage = False``.
"""

import argparse

from PIL import Image

from stagevar import Pipeline
from stagevar.families.tiny import tiny

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--accelerator", default="stagevar", help="see `stagevar accelerators`")
parser.add_argument("--guidance", type=float, default=4.5, help="at the last scale; it grows from none at the first")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tiny", action="store_true")
given = parser.parse_args()

pipeline = Pipeline(tiny("star")) if given.tiny else Pipeline.from_pretrained("star-1024")
pictures = []
for accelerator in ("none", given.accelerator):
    result = pipeline(given.prompt, seed=given.seed, guidance_scale=given.guidance, accelerator=accelerator)
    pictures += result.images
    milliseconds = sum(record.milliseconds for record in result.trace.records)
    print(f"{accelerator}: {milliseconds:.0f} ms in the scales {', '.join(map(str, result.trace.executed(0)))}")
width, height = pictures[0].size
sheet = Image.new("RGB", (2 * width, height))
for column, picture in enumerate(pictures):
    sheet.paste(picture, (column * width, 0))
sheet.save("star.png")
