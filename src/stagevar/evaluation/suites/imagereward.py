"""ImageReward (arXiv 2304.05977): the pictures of all prompts in one folder per model, named after prompt and number.

The official reader divides the number of files in that folder by the number of prompts, so nothing else may lie there.
"""

from __future__ import annotations

from pathlib import Path

from stagevar.errors import OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import number_of, read_json, text_of
from stagevar.evaluation.suite import Item, Scores, Suite

MODEL = "stagevar"
"""Name of the one model, which is a folder of the pictures and a key of the results."""


def read(path: Path) -> list[Item]:
    found = read_json(path)
    if not isinstance(found, list):
        raise OptionError(f"{path} is no list of prompts with ids")
    places = [f"{path}, prompt {i + 1}" for i in range(len(found))]
    return [Item(text_of(a, "id", at), text_of(a, "prompt", at)) for a, at in zip(found, places, strict=True)]


def scores(path: Path) -> Scores:
    found = read_json(path)
    if not isinstance(found, dict) or MODEL not in found:
        raise OptionError(f"{path} has no score of {MODEL}, as ImageReward-v1.0-benchmark-results.json has")
    return Scores({"overall": number_of(found[MODEL], f"{path}, {MODEL}")})


SUITE = Suite(
    name="imagereward",
    title="ImageReward",
    source="github.com/THUDM/ImageReward",
    prompts="benchmark/benchmark-prompts.json",
    read=read,
    place=lambda item, i: f"{MODEL}/{item.key}_{i}",
    protocols=(
        Protocol("official", "test-benchmark.py of THUDM/ImageReward", per_prompt=10),
        Protocol(
            "infinity",
            "scripts/eval.sh and evaluation/image_reward of FoundationVision/Infinity",
            per_prompt=10,
            jpeg=95,
            guidance=4.0,
            temperature=1.0,
        ),
    ),
    results=".json",
    scores=scores,
    scorer=(
        "python test-benchmark.py --prompts_path {prompts} --img_dir {pictures} --model stagevar "
        "--benchmark ImageReward-v1.0 --result_dir {results}"
    ),
    inside="ImageReward-v1.0-benchmark-results.json",
)
