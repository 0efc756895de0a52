"""Faults put into the code one at a time, and the share of them that the tests catch.

mutmut makes the faults and runs for each the tests that reach its function. Its settings in ``pyproject.toml`` name the
files and their tests. All of it happens in a copy of the project, on one core. All faults would take hours, so a sample
is drawn; the same seed draws the same faults of the same code.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_mutant_name

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "docs", "README.md", "pyproject.toml")
CAUGHT = ("killed", "timeout", "segfault")


def main() -> None:
    parser = argparse.ArgumentParser(description="how many faults the tests catch")
    parser.add_argument("--count", type=int, default=100, help="faults to try")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    chosen = parser.parse_args()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder, name))
        os.chdir(folder)
        every = sorted(faults())
        sample = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))
        print(f"{len(sample)} of {len(every)} faults", flush=True)
        mutmut("run", "--max-children", "1", *sample)
        found = verdicts(mutmut("results", "--all", "true", shown=False))
        missed = [name for name in sorted(sample) if found[name] not in CAUGHT]
        for name in missed:
            print(mutmut("show", name, shown=False))
        caught = len(sample) - len(missed)
        print(f"{caught} of {len(sample)} faults caught: {caught / len(sample):.0%}")


def faults() -> list[str]:
    """Names of all faults that mutmut makes in the project at hand."""
    return [
        get_mutant_name(path, fault)
        for path in walk_mutatable_files()
        for fault in mutate_file_contents(str(path), path.read_text(encoding="utf-8")).mutant_names
    ]


def mutmut(*arguments: str, shown: bool = True) -> str:
    """What a command of mutmut prints, or "" if it is shown at once.

    Raises:
        SystemExit: it fails, as it does where the tests fail without a fault.
    """
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, text=True, capture_output=not shown)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout or ""


def verdicts(results: str) -> dict[str, str]:
    """From names of faults to what became of them, of the lines that mutmut prints."""
    return dict(line.strip().split(": ", 1) for line in results.splitlines() if ": " in line)


if __name__ == "__main__":
    main()
