"""GenEval (arXiv 2310.11513): one folder per prompt, with its metadata and its pictures.

The official reader takes every folder whose name is digits, reads ``metadata.jsonl`` as one object, and looks at the
files of ``samples`` whose names are digits and end in png.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stagevar.errors import OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import read_lines, text_of
from stagevar.evaluation.suite import Item, Scores, Suite


def read(path: Path) -> list[Item]:
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        text_of(line, "tag", f"{path}, prompt {number}")
    return [Item(f"{i:05d}", text_of(line, "prompt", f"{path}, prompt {i + 1}"), line) for i, line in enumerate(lines)]


def notes(items: Sequence[Item], files: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    return {f"pictures/{item.key}/metadata.jsonl": json.dumps(item.more) for item in items if item.key in files}


def scores(path: Path) -> Scores:
    """Share of right pictures per task; the headline is the mean over tasks, as in ``summary_scores.py``."""
    tasks: dict[str, list[bool]] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not isinstance(line.get("correct"), bool):
            raise OptionError(f"{path}, line {number} does not say whether the picture is correct")
        tasks.setdefault(text_of(line, "tag", f"{path}, line {number}"), []).append(line["correct"])
    if not tasks:
        raise OptionError(f"{path} holds no results of GenEval's evaluate_images.py")
    shares = {tag: sum(right) / len(right) for tag, right in tasks.items()}
    return Scores({"overall": sum(shares.values()) / len(shares), **shares}, sum(map(len, tasks.values())))


SUITE = Suite(
    name="geneval",
    title="GenEval",
    source="github.com/djghosh13/geneval",
    prompts="prompts/evaluation_metadata.jsonl",
    read=read,
    place=lambda item, i: f"{item.key}/samples/{i:04d}",
    protocols=(
        Protocol("official", "README of djghosh13/geneval", per_prompt=4),
        Protocol(
            "infinity",
            "scripts/eval.sh and evaluation/gen_eval of FoundationVision/Infinity",
            per_prompt=4,
            rewritten=True,
            jpeg=95,
            guidance=4.0,
            temperature=1.0,
        ),
    ),
    results=".jsonl",
    scores=scores,
    scorer="python evaluation/evaluate_images.py {pictures} --outfile {results} --model-path MODELS",
    notes=notes,
)
