"""Write a trained run as a model's folder: ``python recipes/export.py --world photos --to models/photos``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from worlds import WORLDS

from stagevar.families.scenes.network import Scenes
from stagevar.loading.save import save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="scenes", choices=WORLDS)
    parser.add_argument("--run", type=Path, help="folder of the training run; runs/WORLD if not given")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    run = options.run or Path("runs") / options.world
    world = WORLDS[options.world](run)
    state = torch.load(run / "last.pt", weights_only=True, map_location="cpu")
    model = Scenes(world.config, options.world, world.defaults)
    model.load_state_dict(state["average"])
    save_model(model, options.to, torch.float16)
    print(f"step {state['step']}, {state['seconds'] / 60:.0f} minutes: written to {options.to}")


if __name__ == "__main__":
    main()
