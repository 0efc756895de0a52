"""Compiled matrix kernels: a process that multiplies by ever new numbers of rows stops growing."""

from __future__ import annotations

import os
import subprocess
import sys

from stagevar.kernels import CAPACITIES

TELL = f"import os; print([os.environ.get(name) for name in {CAPACITIES}])"

GROWTH = """
import os
import stagevar
import torch
from stagevar.families.linear import Linear, pack

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

torch.set_num_threads(1)
layer = Linear(64, 64).requires_grad_(False)
pack(layer)
seen = []
for rows in range(1, 601):
    layer(torch.zeros(rows, 64))
    if rows in (200, 600):
        seen.append(resident())
print(seen[1] - seen[0])
"""


def output(code: str, **own: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in CAPACITIES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean | own)
    return done.stdout.strip()


def test_capacities_are_set_before_torch_only_and_never_against_the_user() -> None:
    assert output(f"import stagevar; {TELL}") == "['128', '128']"
    assert output(f"import torch, stagevar; {TELL}") == "[None, None]"
    assert output(f"import stagevar; {TELL}", LRU_CACHE_CAPACITY="7") == "['128', '7']"


def test_memory_is_flat_over_new_numbers_of_rows() -> None:
    assert int(output(GROWTH)) < 60 * 2**20  # 225 with the capacities of PyTorch
