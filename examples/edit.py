"""A picture drawn anew by a model of any family: reconstruction, middle inpainted, fine scales, twice as wide.

    python examples/edit.py photo.jpg "a red circle"                       # the model in the package
    python examples/edit.py photo.jpg volcano --model var-d16
    python examples/edit.py photo.jpg "a red circle" --tiny infinity       # a random network, without downloads

Writes edit.png: what the tokenizer makes of the picture, then the three edits.
"""

import argparse
from dataclasses import replace

from PIL import Image

from stagevar import Pipeline
from stagevar.families.stand_ins import VQ
from stagevar.families.tiny import tiny

parser = argparse.ArgumentParser()
parser.add_argument("picture")
parser.add_argument("prompt")
parser.add_argument("--model", default="scenes")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tiny", metavar="FAMILY", help="var, star, switti, hart, infinity or scenes")
given = parser.parse_args()

if given.tiny in ("var", "star", "switti", "hart"):  # their tokenizer has its encoder only if asked for
    pipeline = Pipeline(tiny(given.tiny, tokenizer=replace(VQ, encoder=True)))
elif given.tiny:
    pipeline = Pipeline(tiny(given.tiny))
else:
    pipeline = Pipeline.from_pretrained(given.model, encoder=True)

photo = Image.open(given.picture)
width, height = photo.size
middle = Image.new("L", photo.size)
middle.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
pictures = [
    pipeline.detokenize(pipeline.tokenize(photo)),
    pipeline(given.prompt, image=photo, mask=middle, soft_edge=2, seed=given.seed).images[0],
    pipeline(given.prompt, image=photo, strength=0.5, seed=given.seed).images[0],
    pipeline(given.prompt, image=photo, expand=(width // 2, 0, width // 2, 0), seed=given.seed).images[0],
]
sheet = Image.new("RGB", (sum(each.width for each in pictures), max(each.height for each in pictures)))
left = 0
for each in pictures:
    sheet.paste(each, (left, 0))
    left += each.width
sheet.save("edit.png")
