"""VAR: classes of ImageNet by name or number, one picture of each, the sheet in var.png.

    python examples/var.py "golden retriever" volcano 980
    python examples/var.py "golden retriever" --tiny      # a random network, without downloads
    python examples/var.py volcano --varied               # sampled as for FID, otherwise as in the authors' demo

``stagevar doctor var-d30`` says what the published model needs.
"""

import argparse

from PIL import Image

from stagevar import Pipeline
from stagevar.families.tiny import tiny

parser = argparse.ArgumentParser()
parser.add_argument("classes", nargs="+")
parser.add_argument("--model", default="var-d30", help="var-d16, var-d20, var-d24, var-d30 or var-d36")
parser.add_argument("--accelerator", default="none", help="such as 'drop_last(1)'; see `stagevar accelerators`")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--smooth", action="store_true", help="mix codes: smoother pictures, less detail")
parser.add_argument("--varied", action="store_true")
parser.add_argument("--tiny", action="store_true")
given = parser.parse_args()

pipeline = Pipeline(tiny("var")) if given.tiny else Pipeline.from_pretrained(given.model)
result = pipeline(
    given.classes,
    seed=given.seed,
    smooth=given.smooth,
    accelerator=given.accelerator,
    guidance_scale=1.5 if given.varied else None,
    top_p=0.96 if given.varied else None,
)
width, height = result.images[0].size
sheet = Image.new("RGB", (width * len(result.images), height))
for i, image in enumerate(result.images):
    sheet.paste(image, (width * i, 0))
sheet.save("var.png")
