"""HPSv2.1 (arXiv 2306.09341): one JPEG per prompt, in one folder per style.

The official reader takes every entry of the folder as a style, and file ``00007.jpg`` of it as the picture of the
style's eighth prompt. A file beside the styles ends it.
"""

from __future__ import annotations

import re
from pathlib import Path

from stagevar.errors import MissingFileError, OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import read_json, read_text
from stagevar.evaluation.suite import Item, Scores, Suite

STYLES = "anime", "concept-art", "paintings", "photo"


def read(path: Path) -> list[Item]:
    files = {style: path / f"{style}.json" for style in STYLES}
    if not (there := {style: file for style, file in files.items() if file.is_file()}):
        raise MissingFileError(f"{path} holds none of {', '.join(file.name for file in files.values())}")
    found = []
    for style, file in there.items():
        prompts = read_json(file)
        if not isinstance(prompts, list) or not all(isinstance(each, str) and each.strip() for each in prompts):
            raise OptionError(f"{file} is no list of prompts")
        found += [Item(f"{style}-{i:05d}", prompt, {"style": style, "index": i}) for i, prompt in enumerate(prompts)]
    return found


def scores(path: Path) -> Scores:
    """The mean over all pictures and that of each style, from what the scorer of hpsv2 1.2 prints."""
    found = dict(re.findall(rf"^\S+ +(Average|{'|'.join(STYLES)}) +([0-9.]+)\b", read_text(path), re.M))
    if "Average" not in found:
        raise OptionError(f"{path} holds no line Average, as hpsv2.evaluate prints one")
    return Scores({"overall": float(found.pop("Average")), **{style: float(found[style]) for style in found}})


SUITE = Suite(
    name="hps",
    title="HPSv2.1",
    source="github.com/tgxs002/HPSv2",
    prompts="the folder ~/.cache/hpsv2/datasets/benchmark, which hpsv2.benchmark_prompts('all') fills",
    read=read,
    place=lambda item, i: f"{item.more['style']}/{item.more['index']:05d}",
    protocols=(
        Protocol("official", "README of tgxs002/HPSv2", per_prompt=1, jpeg=95),
        Protocol(
            "infinity",
            "scripts/eval.sh and evaluation/hpsv2 of FoundationVision/Infinity",
            per_prompt=1,
            jpeg=95,
            guidance=4.0,
            temperature=1.0,
        ),
    ),
    results=".txt",
    scores=scores,
    scorer="""python -c "import hpsv2; hpsv2.evaluate('{pictures}', hps_version='v2.1')\"""",
    suffix=".jpg",
)
