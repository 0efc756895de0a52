"""Switti: one prompt, a preview after every scale, the picture in switti.png.

    python examples/switti.py "a lighthouse in a storm"
    python examples/switti.py "a lighthouse in a storm" --tiny      # a random network, without downloads

``stagevar doctor switti-1024`` says what the published model needs.
"""

import argparse

from stagevar import Pipeline
from stagevar.families.tiny import tiny

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--negative", help="what the picture should not be like")
parser.add_argument("--accelerator", default="none", help="such as 'drop_last(1)'; see `stagevar accelerators`")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--tiny", action="store_true")
given = parser.parse_args()

pipeline = Pipeline(tiny("switti")) if given.tiny else Pipeline.from_pretrained("switti-1024")
events = pipeline.stream(given.prompt, seed=given.seed, negative_prompt=given.negative, accelerator=given.accelerator)
for event in events:
    event.preview.save("switti.png")
    print(f"scale {event.scale + 1}/{event.scales}: {event.grid[0]}x{event.grid[1]}, {event.milliseconds:.0f} ms")
