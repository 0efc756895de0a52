"""What the tests of several processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def torchrun(*arguments: object, cwd: Path, processes: int = 2, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What the processes of one run printed; ``arguments`` begin with ``-m stagevar`` or a script. One process runs
    without torchrun."""
    launcher: tuple[str, ...] = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    launcher = launcher if processes > 1 else ()
    paths = os.pathsep.join([str(SOURCE), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines with which processes of ours ended."""
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]
