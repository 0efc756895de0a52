"""Measure the model that restores and write its card: ``PYTHONPATH=recipes python -m restore.card``.

All figures of the card come from ``scores.json``, which this command writes beside the weights; ``--parts`` measures
only some again (none at all: the card is written anew). The text around them is ``card.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from photos.card import training
from restore.degradations import DEGRADATIONS
from restore.export import MODEL
from restore.sheet import bytes_of, restoration_sheet, restored
from restore.train import trained
from sheet import contact_sheet
from tokenizer import coded
from torch import Tensor
from worlds import WORLDS, World, render

from stagevar.families.scenes.network import Scenes
from stagevar.families.scenes.restoring import Restoring
from stagevar.files import replacing
from stagevar.machine import machine
from stagevar.measure.likeness.fidelity import psnr, ssim
from stagevar.measure.markdown import table
from stagevar.pipeline import Pipeline
from stagevar.scenes.captions import Scene, held_out, sample_scene

ROOT = Path(__file__).parents[2]
PARTS = ("training", "size", "restored", "plans", "sheet")
PLANS = ("none", "outlines", "drop_last(1)")
"""What is drawn of every degraded picture, in turn; the first is the plain run."""
BATCH = 10
PLANNED = 20
"""Captions that plans are compared on."""
SHOWN = ROOT / "docs" / "images" / "restoration.webp"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=100, help="held-out captions, a picture of each")
    parser.add_argument("--run", type=Path, default=Path("runs/restore"), help="folder of the second training run")
    parser.add_argument(
        "--earlier", nargs=2, type=int, default=(0, 0), metavar=("STEPS", "MINUTES"), help="of the first run"
    )
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="what to measure again")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(MODEL, device="cpu")
    model = pipe.model
    assert isinstance(model, Scenes)
    world, file = WORLDS["scenes"](options.run), MODEL / "scores.json"
    scenes = unseen(options.captions)
    clean = render(world, scenes, random.Random("card"))
    measured = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    measure: dict[str, Callable[[], Any]] = {
        "training": lambda: training(options.run, *options.earlier),
        "size": lambda: size(model),
        "restored": lambda: by_degradation(pipe, model, clean),
        "plans": lambda: by_plan(pipe, clean[:PLANNED]),
        "sheet": lambda: sheets(pipe, model, world, clean),
    }
    for part in options.parts:
        measured[part] = measure[part]()
        with replacing(file) as path:
            path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(ROOT / "LICENSE", MODEL / "LICENSE")
    with replacing(MODEL / "README.md") as path:
        path.write_text(card(measured), encoding="utf-8")


def unseen(n: int) -> list[Scene]:
    """Different scenes that training never sees."""
    rng, found = random.Random("card"), dict[str, Scene]()
    while len(found) < n:
        scene = sample_scene(rng, held_out=True)
        if held_out(scene):
            found[scene.caption] = scene
    return list(found.values())


def size(model: Scenes) -> dict[str, int]:
    """Parameters, and those that were trained."""
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {"parameters": sum(counts.values()), "trained": sum(n for name, n in counts.items() if trained(name))}


def spoilt(clean: Tensor) -> dict[str, Tensor]:
    """The pictures with each fault, in 8 bits."""
    return {
        name: bytes_of(spoil(clean, torch.Generator().manual_seed(index)))
        for index, (name, spoil) in enumerate(DEGRADATIONS.items())
    }


def by_degradation(pipe: Pipeline, model: Scenes, clean: Tensor) -> dict[str, Any]:
    """PSNR in dB to the clean pictures, and its standard error, of what is made of each fault."""
    rows = []
    for name, seen in spoilt(clean).items():
        pictures = {
            "degraded": seen,
            "coded": coded(model.tokenizer, seen),
            "estimate": estimated(model, seen),
            "restored": torch.cat([restored(pipe, part) for part in seen.split(BATCH)]),
        }
        found = {label: psnr(each, clean) for label, each in pictures.items()}
        gain = found["restored"] - found["degraded"]
        rows.append(
            {
                "degradation": name,
                **{label: float(each.mean()) for label, each in found.items()},
                "error": float(gain.std() / len(gain) ** 0.5),
                "better": float((gain > 0).float().mean()),
                "ssim": float(ssim(pictures["restored"], clean).mean()),
                "ssim degraded": float(ssim(seen, clean).mean()),
            }
        )
    limit = float(psnr(coded(model.tokenizer, clean), clean).mean())
    return {"captions": len(clean), "clean coded": limit, "rows": rows}


def sheets(pipe: Pipeline, model: Scenes, world: World, clean: Tensor) -> dict[str, float]:
    """Write the sheet of the card and the picture of the documents: a picture of each fault, restored below."""
    faults = spoilt(clean[: len(DEGRADATIONS)]).values()
    seen = torch.stack([pictures[i] for i, pictures in enumerate(faults)])
    contact_sheet(torch.cat([seen, restored(pipe, seen)]), SHOWN, len(seen))
    return restoration_sheet(model, world, MODEL / "sheet.png")


@torch.inference_mode()
def estimated(model: Scenes, pictures: Tensor) -> Tensor:
    """What the encoder alone makes of pictures."""
    return model.tokenizer.decode(cast(Restoring, model).looked_at(pictures)[1]).clone()


def by_plan(pipe: Pipeline, clean: Tensor) -> dict[str, Any]:
    """Time and PSNR of each plan against the plain run, drawn in turn batch by batch. Times are those of the network
    and the decoder; rows are the share of all that run."""
    pictures = spoilt(clean)
    found: dict[str, list[Tensor]] = {name: [] for name in PLANS}
    times: dict[str, list[float]] = {name: [] for name in PLANS}
    rows: dict[str, list[float]] = {name: [] for name in PLANS}
    whole = sum(h * w for h, w in pipe.model.schedule())
    draw(pipe, clean[:BATCH], PLANS[0])
    for turn, start in enumerate(range(0, len(clean), BATCH)):
        for seen in pictures.values():
            for name in PLANS[turn % len(PLANS) :] + PLANS[: turn % len(PLANS)]:
                trace, drawn = draw(pipe, seen[start : start + BATCH], name)
                found[name].append(psnr(drawn, clean[start : start + BATCH]))
                times[name].append((trace.network_milliseconds + trace.decode_milliseconds) / len(drawn))
                rows[name].append(sum(record.rows for record in trace.records) / len(drawn) / whole)
    plain, count = PLANS[0], len(DEGRADATIONS)
    every = {name: torch.stack(each).unflatten(0, (-1, count)) for name, each in found.items()}
    table = []
    for name in PLANS:
        lost = every[plain] - every[name]
        ratio = torch.tensor(times[name]) / torch.tensor(times[plain])
        table.append(
            {
                "plan": name,
                "milliseconds": float(torch.tensor(times[name]).median()),
                "time": float(ratio.median()),
                "spread": [float(each) for each in ratio.quantile(torch.tensor([0.25, 0.75]))],
                "rows": sum(rows[name]) / len(rows[name]),
                "lost": float(lost.mean()),
                "error": float(lost.mean(1).std() / len(clean) ** 0.5),
                "by": {fault: float(lost[:, i].mean()) for i, fault in enumerate(DEGRADATIONS)},
            }
        )
    return {**machine(pipe.model), "batch": BATCH, "captions": len(clean), "rows": table}


def draw(pipe: Pipeline, pictures: Tensor, accelerator: str) -> tuple[Any, Tensor]:
    """The record of a call and its pictures."""
    result = pipe(image=list(pictures), seed=0, accelerator=accelerator, batch_size=len(pictures), output_type="pt")
    return result.trace, torch.stack(result.images)


def card(measured: Mapping[str, Any]) -> str:
    run, found, plans = measured["training"], measured["restored"], measured["plans"]
    return (
        Path(__file__)
        .with_suffix(".md")
        .read_text(encoding="utf-8")
        .format(
            encoder_steps=run["earlier"]["steps"],
            encoder_minutes=run["earlier"]["minutes"],
            steps=run["step"],
            minutes=run["minutes"],
            parameters=measured["size"]["parameters"] / 1e6,
            trained=measured["size"]["trained"] / 1e6,
            captions=found["captions"],
            limit=found["clean coded"],
            restored=restored_table(found),
            plans=plan_table(plans),
            batch=plans["batch"],
            planned=plans["captions"],
            threads=plans["threads"],
        )
    )


def restored_table(found: Mapping[str, Any]) -> str:
    head = ["fault", "degraded", "its codes", "estimate", "restored", "gain", "better"]
    return table(
        head,
        [
            [
                row["degradation"],
                f"{row['degraded']:.1f}",
                f"{row['coded']:.1f}",
                f"{row['estimate']:.1f}",
                f"**{row['restored']:.1f}**",
                f"{row['restored'] - row['degraded']:+.1f} ± {row['error']:.1f}",
                f"{row['better']:.0%}",
            ]
            for row in found["rows"]
        ],
    )


def plan_table(found: Mapping[str, Any]) -> str:
    return table(
        ["plan", "ms per picture", "time", "rows", "PSNR lost, dB", *DEGRADATIONS],
        [
            [
                f"`{row['plan']}`",
                f"{row['milliseconds']:.0f}",
                f"{row['time']:.2f}",
                f"{row['rows']:.2f}",
                f"{row['lost']:.2f} ± {row['error']:.2f}",
                *(f"{row['by'][fault]:.2f}" for fault in DEGRADATIONS),
            ]
            for row in found["rows"]
        ],
    )


if __name__ == "__main__":
    main()
