"""EvalScope's benchmark ``general_t2i``: a JSON line per picture with id, prompt and path, for any of its scorers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stagevar.errors import OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import number_of, read_json, read_lines, text_of
from stagevar.evaluation.suite import Item, Scores, Suite


def read(path: Path) -> list[Item]:
    return [
        Item(str(line.get("id", f"{i:05d}")), text_of(line, "prompt", f"{path}, prompt {i + 1}"))
        for i, line in enumerate(read_lines(path))
    ]


def notes(items: Sequence[Item], files: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    lines = [
        json.dumps({"id": f"{item.key}_{i}", "prompt": item.prompt, "image_path": str(path)})
        for item in items
        for i, path in enumerate(files.get(item.key, ()))
    ]
    return {"evalscope.jsonl": "".join(f"{line}\n" for line in lines)}


def scores(path: Path) -> Scores:
    found = read_json(path)
    metrics = found.get("metrics") if isinstance(found, dict) else None
    if not isinstance(metrics, list) or not metrics:
        raise OptionError(f"{path} has no metrics, as EvalScope's reports/MODEL/general_t2i.json has")
    return Scores({text_of(each, "name", path): number_of(each.get("score"), f"{path}, score") for each in metrics})


SUITE = Suite(
    name="evalscope",
    title="EvalScope",
    source="github.com/modelscope/evalscope",
    prompts="any file with a JSON object with a prompt, and maybe an id, a line",
    read=read,
    place=lambda item, i: f"{item.key}_{i}",
    protocols=(Protocol("official", "one picture per prompt", per_prompt=1),),
    results=".json",
    scores=scores,
    scorer=(
        "evalscope eval --model stagevar --model-task image_generation --eval-type mock_llm --datasets general_t2i "
        """--dataset-args '{"general_t2i": {"dataset_id": "{folder}/evalscope.jsonl", "metric_list": ["PickScore"]}}'"""
        " --work-dir {results}"
    ),
    inside="**/general_t2i.json",
    notes=notes,
)
