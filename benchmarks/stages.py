"""Where ``stagevar`` draws its boundaries, per picture: ``python benchmarks/stages.py``.

Every caption is drawn with several seeds. Appends to ``results/stages.jsonl`` (boundaries and kept positions, their
spread over seeds and over captions) and ``docs/images/stages.png``: for a plain and a textured picture the plain run,
ours, and the positions that ran at the last scale.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from PIL import Image, ImageDraw
from store import ROOT, append, arguments

from stagevar.drawing import to_pil
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.latent import contrast
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.select import Select, kept
from stagevar.files import replacing
from stagevar.machine import machine
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.scenes.captions import caption_suite

ACCELERATOR = "stagevar"
ZOOM = 4


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--captions", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained("scenes", device=options.device, dtype="float32")
    rows: list[dict[str, Any]] = []
    schedule = pipe.model.schedule()
    for scene in caption_suite(options.captions):
        plans = drawn(pipe, scene.caption, range(options.seeds))
        figures = {
            name: [measure(plan, schedule)[name] for plan in plans] for name in ("single", "fidelity", "kept", "rows")
        }
        rows.append({"caption": scene.caption} | {name: spread(values) for name, values in figures.items()})
        print(json.dumps(rows[-1]), flush=True)
    rows.sort(key=lambda row: row["kept"]["mean"])
    ends = [*rows[:3], *rows[-3:]]
    report = {
        **machine(pipe.model),
        "accelerator": ACCELERATOR,
        "model": pipe.model.name,
        "captions": options.captions,
        "seeds": options.seeds,
        "rows": ends,
        "spread": {
            name: {
                "within": fmean(row[name]["std"] for row in rows),
                "between": pstdev(row[name]["mean"] for row in rows),
            }
            for name in ("single", "fidelity", "kept", "rows")
        },
    }
    append("stages", options.device, report, options.out)
    with replacing(options.images / "stages.png") as path:
        sheet(pipe, [ends[0]["caption"], ends[-1]["caption"]]).save(path, format="png")


def drawn(pipe: Pipeline, caption: str, seeds: range) -> tuple[Plan, ...]:
    """The plans of a caption's pictures as they stood at the end."""
    requests = [Request(caption, seed=seed, accelerator=ACCELERATOR) for seed in seeds]
    *_, last = pipe.events(requests, output_type="latent")
    return last.plans


def measure(plan: Plan, schedule: Schedule) -> dict[str, float]:
    """Boundaries as scale indices (the number of scales if never), and how much ran."""
    shares = [kept_share(scale) for scale in plan]
    return {
        "single": next((k for k, scale in enumerate(plan) if scale.branch != "both"), len(plan)),
        "fidelity": next((k for k, scale in enumerate(plan) if scale.stage == "fidelity"), len(plan)),
        "kept": shares[-1],
        "rows": sum(
            kept(share, h * w) * (2 if scale.branch == "both" else 1)
            for share, scale, (h, w) in zip(shares, plan, schedule, strict=True)
        ),
    }


def kept_share(scale: ScalePlan) -> float:
    return scale.tokens.keep if isinstance(scale.tokens, Select) else 1.0


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": fmean(values), "std": pstdev(values)}


def sheet(pipe: Pipeline, captions: list[str]) -> Image.Image:
    """A row per caption: plain run, ours, positions that ran at the last scale (white)."""
    side, head = 64 * ZOOM, 22
    board = Image.new("RGB", (3 * (side + 8), len(captions) * (side + head)), "white")
    pen = ImageDraw.Draw(board)
    for row, caption in enumerate(captions):
        plain = pipe(caption, seed=0).images[0]
        *_, before, last = pipe.stream(caption, seed=0, accelerator=ACCELERATOR)
        assert last.result is not None
        keep, energy = kept_share(last.plans[0][-1]), contrast(before.latent)[0, 0]
        count = kept(keep, energy.numel())
        mask = (energy >= energy.flatten().topk(count).values[-1]).float().expand(3, -1, -1)
        pictures = [plain, last.result.images[0], to_pil(mask)]
        titles = [f"{caption}: plain run", ACCELERATOR, f"{keep:.0%} of the positions ran"]
        for column, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            place = column * (side + 8), row * (side + head)
            pen.text((place[0] + 2, place[1] + 4), title, fill="black")
            board.paste(picture.resize((side, side), Image.Resampling.NEAREST), (place[0], place[1] + head))
    return board


if __name__ == "__main__":
    main()
