"""Write a trained run as the package's model: ``python recipes/scenes/export.py --run runs/scenes``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sheet import GUIDANCE, TEMPERATURES

from stagevar.engine.contract.model import Defaults
from stagevar.families.scenes.config import ScenesConfig
from stagevar.families.scenes.network import Scenes
from stagevar.families.scenes.sizes import SHIPPED
from stagevar.loading.save import save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/scenes"), help="folder of the training run")
    parser.add_argument("--to", type=Path, default=SHIPPED, help="folder to write")
    options = parser.parse_args()
    state = torch.load(options.run / "last.pt", weights_only=True, map_location="cpu")
    model = Scenes(ScenesConfig(), defaults=Defaults(guidance=GUIDANCE, temperature=TEMPERATURES))
    model.load_state_dict(state["average"])
    save_model(model, options.to, torch.float16)
    print(f"step {state['step']}, {state['seconds'] / 60:.0f} minutes: written to {options.to}")


if __name__ == "__main__":
    main()
