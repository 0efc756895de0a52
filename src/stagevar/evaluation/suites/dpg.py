"""DPG-Bench (arXiv 2403.05135): four pictures per prompt on one sheet, two by two.

The official reader opens every file of the folder, cuts it at multiples of ``--resolution``, and takes what stands
before the first dot of its name as the prompt's id.
"""

from __future__ import annotations

import re
from pathlib import Path

from stagevar.errors import MissingFileError, OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import read_text
from stagevar.evaluation.suite import Item, Scores, Suite


def read(path: Path) -> list[Item]:
    if not path.is_dir():
        raise MissingFileError(f"{path} is no folder; DPG-Bench has a folder with one text file per prompt")
    files = sorted(each for each in path.iterdir() if each.suffix == ".txt" and each.is_file())
    if dotted := [each.name for each in files if "." in each.stem]:
        raise OptionError(f"{path / dotted[0]}: DPG-Bench's scorer takes no id with a dot")
    return [Item(each.stem, " ".join(read_text(each).split())) for each in files]


def scores(path: Path) -> Scores:
    """The score of 100 and that of each broad category, from the text that the scorer writes."""
    text = read_text(path)
    headline = re.findall(r"^DPG-Bench score: ([0-9.]+)$", text, re.M)
    if not headline:
        raise OptionError(f"{path} holds no line 'DPG-Bench score', with which compute_dpg_bench.py ends")
    broad = re.findall(r"^\t(\w+): ([0-9.]+)$", text.partition("L1 category scores:")[2].partition("L2 ")[0], re.M)
    sheets = {line.split(", ")[0] for line in text.splitlines() if re.search(r", [0-9.]+, [0-9.]+$", line)}
    return Scores(
        {"overall": float(headline[-1]), **{name: float(value) for name, value in broad}}, len(sheets) or None
    )


SUITE = Suite(
    name="dpg",
    title="DPG-Bench",
    source="github.com/TencentQQGYLab/ELLA",
    prompts="the folder dpg_bench/prompts",
    read=read,
    place=lambda item, i: item.key,
    protocols=(
        Protocol("official", "dpg_bench of TencentQQGYLab/ELLA", per_prompt=4),
        Protocol(
            "infinity",
            "guidance and temperature of scripts/eval.sh of FoundationVision/Infinity, which has no DPG-Bench",
            per_prompt=4,
            guidance=4.0,
            temperature=1.0,
        ),
    ),
    results=".txt",
    scores=scores,
    scorer=(
        "accelerate launch dpg_bench/compute_dpg_bench.py --image-root-path {pictures} --resolution 1024 --pic-num 4 "
        "--csv dpg_bench/dpg_bench.csv --vqa-model mplug --res-path {results}"
    ),
    sheet=True,
)
