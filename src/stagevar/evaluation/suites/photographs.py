"""MJHQ-30K (arXiv 2402.17245) and COCO: the Frechet distance of a folder of pictures to one of photographs."""

from __future__ import annotations

from pathlib import Path

from stagevar.errors import OptionError
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import number_of, read_json, text_of
from stagevar.evaluation.suite import Item, Scores, Suite

FIDELITY = "fidelity --fid --json --input1 {pictures} --input2 REAL --samples-find-deep"


def read_mjhq(path: Path) -> list[Item]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise OptionError(f"{path} is no JSON object from ids to prompts")
    return [
        Item(key, text_of(one, "prompt", f"{path}, {key}"), {"category": text_of(one, "category", f"{path}, {key}")})
        for key, one in found.items()
    ]


def read_coco(path: Path) -> list[Item]:
    """One caption per photograph: the one of the lowest id."""
    found = read_json(path)
    captions = found.get("annotations") if isinstance(found, dict) else None
    if not isinstance(captions, list):
        raise OptionError(f"{path} has no annotations, as captions_val2014.json has")
    first: dict[int, tuple[int, str]] = {}
    for i, each in enumerate(captions):
        caption = text_of(each, "caption", f"{path}, caption {i + 1}")
        photograph, number = (int(number_of(each.get(name), f"{path}, {name}")) for name in ("image_id", "id"))
        first[photograph] = min(first.get(photograph, (number, caption)), (number, caption))
    return [Item(f"{photograph:012d}", first[photograph][1].strip()) for photograph in sorted(first)]


def scores(path: Path) -> Scores:
    found = read_json(path)
    name = "frechet_inception_distance"
    if not isinstance(found, dict) or name not in found:
        raise OptionError(f"{path} has no {name}, which the command fidelity of torch-fidelity writes")
    return Scores({"fid": number_of(found[name], f"{path}, {name}")})


MJHQ = Suite(
    name="mjhq",
    title="MJHQ-30K",
    source="huggingface.co/datasets/playgroundai/MJHQ-30K",
    prompts="meta_data.json",
    read=read_mjhq,
    place=lambda item, i: f"{item.more['category']}/{item.key}",
    protocols=(Protocol("official", "card of playgroundai/MJHQ-30K", per_prompt=1),),
    results=".json",
    scores=scores,
    scorer=FIDELITY,
)

COCO = Suite(
    name="coco",
    title="COCO",
    source="cocodataset.org",
    prompts="annotations/captions_val2014.json, or a file of that form with fewer captions",
    read=read_coco,
    place=lambda item, i: item.key,
    protocols=(Protocol("official", "one caption per photograph, that of the lowest id", per_prompt=1),),
    results=".json",
    scores=scores,
    scorer=FIDELITY,
)
