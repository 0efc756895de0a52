"""HART: one prompt with and without the continuous residual behind its codes, side by side in hart.png.

    python examples/hart.py "a lighthouse in a storm"
    python examples/hart.py "a lighthouse in a storm" --tiny      # a random network, without downloads

``stagevar doctor hart-0.7b`` says what the published model needs.
"""

import argparse

from PIL import Image

from stagevar import Pipeline
from stagevar.families.hart.network import Hart
from stagevar.families.tiny import tiny

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--accelerator", default="none", help="such as 'guidance_off(2)'; see `stagevar accelerators`")
parser.add_argument("--guidance", type=float, default=4.5, help="at the last scales; it grows from none at the first")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tiny", action="store_true")
given = parser.parse_args()

pipeline = Pipeline(tiny("hart")) if given.tiny else Pipeline.from_pretrained("hart-0.7b")
pictures = []
for refined in (True, False):
    assert isinstance(pipeline.model, Hart)
    pipeline.model.refined = refined
    result = pipeline(given.prompt, seed=given.seed, guidance_scale=given.guidance, accelerator=given.accelerator)
    pictures += result.images
    print(f"{'with' if refined else 'without'} residual: {result.trace.network_milliseconds:.0f} ms")
width, height = pictures[0].size
sheet = Image.new("RGB", (2 * width, height))
for column, picture in enumerate(pictures):
    sheet.paste(picture, (column * width, 0))
sheet.save("hart.png")
