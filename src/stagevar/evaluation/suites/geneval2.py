"""GenEval 2 (arXiv 2512.16853): one picture per prompt, and a JSON file from each prompt to its picture.

Its prompts are under CC BY-NC 4.0. The official reader goes through them in order and looks each up in that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import exp, log
from pathlib import Path

from stagevar.errors import OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import number_of, read_json, read_lines, text_of
from stagevar.evaluation.suite import Item, Scores, Suite


def read(path: Path) -> list[Item]:
    return [
        Item(f"{i:05d}", text_of(line, "prompt", f"{path}, prompt {i + 1}")) for i, line in enumerate(read_lines(path))
    ]


def notes(items: Sequence[Item], files: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    found = {item.prompt: str(files[item.key][0]) for item in items if item.key in files}
    return {"image_paths.json": json.dumps(found, indent=1)}


def scores(path: Path) -> Scores:
    """Soft-TIFA by prompts (mean of geometric means) and by atoms (mean of arithmetic means), from the scorer's list of
    probabilities, one per question, of each prompt."""
    found = read_json(path)
    if not isinstance(found, list) or not found or not all(isinstance(each, list) and each for each in found):
        raise OptionError(f"{path} holds no lists of scores as GenEval 2's evaluation.py writes them")
    lists = [[number_of(value, f"{path}, a score") for value in each] for each in found]
    geometric = [exp(sum(map(log, each)) / len(each)) if min(each) > 0 else 0.0 for each in lists]
    arithmetic = [sum(each) / len(each) for each in lists]
    values = {"soft_tifa_gm": sum(geometric) / len(lists), "soft_tifa_am": sum(arithmetic) / len(lists)}
    return Scores(values, len(lists))


SUITE = Suite(
    name="geneval2",
    title="GenEval 2",
    source="github.com/facebookresearch/GenEval2",
    prompts="geneval2_data.jsonl",
    read=read,
    place=lambda item, i: item.key,
    protocols=(Protocol("official", "README of facebookresearch/GenEval2", per_prompt=1),),
    results=".json",
    scores=scores,
    scorer=(
        "python evaluation.py --benchmark_data {prompts} --image_filepath_data {folder}/image_paths.json "
        "--method soft_tifa_gm --output_file {results}"
    ),
    notes=notes,
)
