"""The model in the package: a picture after every scale, then the dial of ``stagevar`` from fast to plain.

    python examples/scenes.py "a red circle to the left of a blue square"

Writes scenes-scales.png and scenes-dial.png.
"""

import argparse

from PIL import Image

from stagevar import Pipeline

parser = argparse.ArgumentParser()
parser.add_argument("prompt")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()


def strip(pictures: list[Image.Image], path: str) -> None:
    """Pictures in a row, four times as large."""
    side = 4 * pictures[0].width
    sheet = Image.new("RGB", (len(pictures) * side, side))
    for column, picture in enumerate(pictures):
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (column * side, 0))
    sheet.save(path)


pipeline = Pipeline.from_pretrained("scenes")
strip([event.preview for event in pipeline.stream(given.prompt, seed=given.seed)], "scenes-scales.png")
dialled = []
for quality in (0.0, 0.5, 0.9, 1.0):
    result = pipeline(given.prompt, seed=given.seed, accelerator=f"stagevar(quality={quality})")
    dialled += result.images
    print(f"quality {quality}: {result.trace.network_milliseconds:.0f} ms")
strip(dialled, "scenes-dial.png")
