"""Write a run that learnt to restore as a model's folder: ``PYTHONPATH=recipes python -m restore.export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from export import write
from restore.train import restoring
from worlds import WORLDS

MODEL = Path(__file__).parents[2] / "models" / "restore"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="scenes", choices=WORLDS)
    parser.add_argument("--run", type=Path, default=Path("runs/restore"), help="folder of the training run")
    parser.add_argument("--to", type=Path, default=MODEL, help="folder to write")
    options = parser.parse_args()
    write(restoring(WORLDS[options.world](options.run).config), options.run, options.to)


if __name__ == "__main__":
    main()
