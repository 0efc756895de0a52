"""`stagevar`, whose second process cannot write its third picture. For torchrun."""

import os
from pathlib import Path
from typing import Any

from stagevar.cli import main
from stagevar.cli.pictures import Target
from stagevar.errors import OutputError

write = Target.write


def failing(self: Target, image: Any, record: Any, number: int = 1) -> str:
    if os.environ["RANK"] == "1" and len([path for path in Path("out").iterdir() if _odd(path)]) == 2:
        raise OutputError("no space left for this test")
    return write(self, image, record, number)


def _odd(path: Path) -> bool:
    return path.suffix == ".png" and int(path.stem.rpartition("-")[2]) % 2 == 1


Target.write = failing  # type: ignore[method-assign]
main()
