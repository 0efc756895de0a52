"""The photographs of the world: fetched as Debian packages, cut out and made small once.

``python recipes/photos/material.py runs/photos/material`` writes ``cutouts.npz`` (objects with alpha at each size) and
``places.npz`` (views of each place). It needs ``apt-get`` and ``dpkg`` on a system whose package lists name
Debian's main archive, and installs nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from stagevar.files import replacing
from stagevar.photos.captions import OBJECTS, PLACES

SIZE = 64
SIDES = (44, 27)
"""Longest side in pixels of an object that stands alone, and of one among several."""
VIEWS = 4
"""How many views there are of a place."""
EXPOSURES = (0.72, 0.9, 1.08, 1.26)
"""Brightness of the views, so that the mean colour of a picture gives the view away."""

PACKAGES = (
    "tuxpaint-stamps-default",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "lomiri-wallpapers-16.04",
)
STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
PLASMA = "plasma-workspace-wallpapers/usr/share/wallpapers"
MATE = "mate-backgrounds/usr/share/backgrounds/mate/nature"
LOMIRI = "lomiri-wallpapers-16.04/usr/share/backgrounds"

CUTOUTS = {
    "frog": "animals/amphibians/frog",
    "hen": "animals/birds/hen",
    "owl": "animals/birds/owl",
    "penguin": "animals/birds/penguin",
    "parrot": "animals/birds/rainbow-lorikeet",
    "fish": "animals/fish/butterflyfish",
    "seahorse": "animals/fish/seahorse",
    "bee": "animals/insects/hoverfly",
    "bear": "animals/mammals/bears/european-bear",
    "cow": "animals/mammals/bovines/cow",
    "camel": "animals/mammals/camel/dromedary",
    "lion": "animals/mammals/cats/lion-2",
    "tiger": "animals/mammals/cats/tiger",
    "dog": "animals/mammals/dogs/dog",
    "fox": "animals/mammals/dogs/fox",
    "elephant": "animals/mammals/elephant",
    "donkey": "animals/mammals/equines/donkey",
    "zebra": "animals/mammals/equines/zebra",
    "giraffe": "animals/mammals/giraffe",
    "pig": "animals/mammals/pig_golden",
    "rabbit": "animals/mammals/rabbit_little",
    "squirrel": "animals/mammals/rodents/squirrel",
    "kangaroo": "animals/marsupials/kangaroo",
    "koala": "animals/marsupials/koala",
    "flamingo": "animals/birds/pink_flamingo",
    "apple": "food/fruit/apple_red",
    "banana": "food/fruit/banana",
    "strawberry": "food/fruit/Strawberry2",
    "lemon": "food/fruit/lemon",
    "orange": "food/fruit/sliced_orange",
    "pear": "food/fruit/pear",
    "pineapple": "food/fruit/pineapple",
    "pomegranate": "food/fruit/pomegranate",
    "grape": "food/fruit/grapes",
    "pumpkin": "food/vegetables/pumpkin_small",
    "tomato": "food/vegetables/tomato",
    "pepper": "food/vegetables/pepper",
    "corn": "food/vegetables/corn",
    "broccoli": "food/vegetables/broccoli",
    "mushroom": "plants/mushrooms/cep-1",
    "onion": "food/vegetables/onion",
    "daffodil": "plants/flowers/daffodil",
    "rose": "plants/flowers/rose",
    "marigold": "plants/flowers/marigold",
    "duck": "household/rubberduck",
    "teddy": "animals/mammals/bears/toys/edward_bear",
    "camera": "hobbies/camera_35mm",
    "drum": "hobbies/music/percussion/drum_tomtom_floor",
    "guitar": "hobbies/music/string/guitar_classical",
    "mug": "household/dishes/mug",
    "teapot": "household/dishes/teapot",
    "toolbox": "household/tools/toolbox",
    "moon": "space/moon/moon_full",
    "basketball": "sports/basketball",
    "car": "vehicles/auto/beetle",
    "bus": "vehicles/masstransit/green_korean_bus",
    "tricycle": "vehicles/cycle/pink_tricycle",
    "balloon": "vehicles/flight/balloon360",
    "boat": "vehicles/ship/chineseJunk",
    "mailbox": "town/uk_post_box",
}
PHOTOGRAPHS = {
    "grass": f"{MATE}/GreenMeadow.jpg",
    "leaves": f"{PLASMA}/FallenLeaf/contents/images/640x480.jpg",
    "moss": f"{PLASMA}/OneStandsOut/contents/images/640x480.jpg",
    "wood": f"{MATE}/Wood.jpg",
    "petals": f"{MATE}/FreshFlower.jpg",
    "pier": f"{PLASMA}/BytheWater/contents/images/640x480.jpg",
    "shore": f"{PLASMA}/EveningGlow/contents/images/640x480.jpg",
    "dune": f"{MATE}/Dune.jpg",
    "hill": f"{LOMIRI}/aitzgorri_by_Aitzol_Berasategi.jpg",
    "forest": f"{PLASMA}/Path/contents/images/640x480.jpg",
    "meadow": f"{LOMIRI}/seeding_by_Clements_Engelhardt.jpg",
    "stream": f"{LOMIRI}/life_by_Aitzol_Berasategi.jpg",
    "mountains": f"{LOMIRI}/picosdeeuropa_by_Aitzol_Berasategi.jpg",
    "sky": f"{PLASMA}/Kite/contents/images/640x480.jpg",
    "water": f"{MATE}/Aqua.jpg",
    "storm": f"{MATE}/Storm.jpg",
    "fog": f"{PLASMA}/ColdRipple/contents/images/640x480.jpg",
    "dusk": f"{PLASMA}/summer_1am/contents/images/640x480.jpg",
    "sunset": f"{LOMIRI}/sunset_by_Aitzol_Berasategi.jpg",
    "night": f"{PLASMA}/DarkestHour/contents/images/640x480.jpg",
}


def fetch(folder: Path) -> None:
    """Download the packages and unpack each into a folder of its name."""
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=folder, check=True)
    for name in PACKAGES:
        (package,) = folder.glob(f"{name}_*.deb")
        subprocess.run(["dpkg", "-x", package, folder / name], check=True)


def cutout(path: Path, side: int) -> npt.NDArray[np.uint8]:
    """An object cropped to what is opaque, with its longest side ``side`` pixels: (height, width, 4)."""
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > 30)).getbbox())
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))


def views(path: Path) -> npt.NDArray[np.uint8]:
    """Squares along the width of a photograph, every other one mirrored, from dark to bright: (VIEWS, 64, 64, 3)."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    side = round(0.8 * min(picture.size))
    top = picture.height - side
    made = []
    for view, exposure in enumerate(EXPOSURES):
        left = round((picture.width - side) * view / (VIEWS - 1))
        square = picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        square = ImageOps.mirror(square) if view % 2 else square
        made.append(np.asarray(ImageEnhance.Brightness(square).enhance(exposure)))
    return np.stack(made)


def make(folder: Path) -> None:
    """Fetch everything into a temporary folder and write the small pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        fetch(Path(name))
        cutouts = {
            f"{thing} {side}": cutout(Path(name) / STAMPS / f"{CUTOUTS[thing]}.png", side)
            for thing in OBJECTS
            for side in SIDES
        }
        places = {place: views(Path(name) / PHOTOGRAPHS[place]) for place in PLACES}
    for file, arrays in (("cutouts.npz", cutouts), ("places.npz", places)):
        with replacing(folder / file) as path, path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
