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
    write(Scenes(world.config, options.world, world.defaults), run, options.to)


def write(model: Scenes, run: Path, folder: Path) -> None:
    """Write the averaged weights of a run as a folder, in float16.

    Args:
        model: of the run's shape; it is given these weights.
        run: folder of the training run.
        folder: as ``save_model`` takes it.
    """
    state = torch.load(run / "last.pt", weights_only=True, map_location="cpu")
    model.load_state_dict(state["average"])
    save_model(model, folder, torch.float16)
    print(f"step {state['step']}, {state['seconds'] / 60:.0f} minutes: written to {folder}")


if __name__ == "__main__":
    main()
