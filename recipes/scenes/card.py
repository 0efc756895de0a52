"""Measure the shipped model and write its card: ``python recipes/scenes/card.py``.

All figures of the card come from ``scores.json``, which this command writes beside it; ``--parts`` measures only some
again (none at all: the card is written anew). The text around them is ``card.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from data import render
from torch import Tensor

from stagevar.engine.plan.plan import Plan
from stagevar.families.scenes.sizes import SHIPPED
from stagevar.families.scenes.tokenizer import PatchQuantizer
from stagevar.files import replacing
from stagevar.measure.likeness.fidelity import psnr, ssim
from stagevar.measure.suites.score import score
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.scenes.captions import CATEGORIES, caption_suite
from stagevar.scenes.oracle import score_suite

STAGE_CAPTIONS = 90
PARTS = ("training", "tokenizer", "scores", "stages", "time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=600)
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 3.0])
    parser.add_argument("--log", type=Path, default=Path("runs/scenes/log.jsonl"), help="log of the training run")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="what to measure again")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained("scenes", device="cpu")
    scores_file = SHIPPED / "scores.json"
    measured = json.loads(scores_file.read_text(encoding="utf-8")) if scores_file.exists() else {}
    measure: dict[str, Callable[[], Any]] = {
        "training": lambda: json.loads(options.log.read_text(encoding="utf-8").splitlines()[-1]),
        "tokenizer": lambda: tokenizer(pipe),
        "scores": lambda: [score(pipe, captions=options.captions, guidance=g) for g in options.guidance],
        "stages": lambda: stages(pipe),
        "time": lambda: times(pipe),
    }
    for part in options.parts:
        measured[part] = measure[part]()
        with replacing(scores_file) as path:
            path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    with replacing(SHIPPED / "README.md") as path:
        path.write_text(card(measured), encoding="utf-8")


def tokenizer(pipe: Pipeline) -> list[dict[str, Any]]:
    """Rendered held-out pictures coded and decoded up to each scale."""
    scenes = caption_suite(STAGE_CAPTIONS)
    reference = render(scenes, random.Random("card"))
    quantizer, rows = pipe.model.tokenizer, []
    assert isinstance(quantizer, PatchQuantizer)
    latent = torch.zeros_like(quantizer.features(reference))
    for k, codes in enumerate(quantizer.encode(reference)):
        latent = latent + quantizer.upsampled(k, codes)
        grid = f"{quantizer.grids[k]}x{quantizer.grids[k]}"
        rows.append({"up to": grid, **compared(quantizer.decode(latent), reference, scenes)})
    return rows


def stages(pipe: Pipeline) -> dict[str, Any]:
    """What leaving out scales, or guidance in the last ones, costs against the full run with the same noise."""
    scenes = caption_suite(STAGE_CAPTIONS)
    full, last = pipe.prepare(Request("any")).plan, len(pipe.prepare(Request("any")).plan) - 1
    variants: dict[str, Plan | None] = {"full run": full, "another seed": None}
    for n in (1, 2, 3, 4):
        variants[f"last {n} skipped"] = full.replace(range(last, last - n, -1), run="skip")
    for n in (2, 3, 4, 5):
        variants[f"prompt only in the last {n}"] = full.replace(range(last, last - n, -1), branch="cond")
    variants["scales 2 to 4 skipped"] = full.replace([1, 2, 3], run="skip")
    rows, reference = [], torch.empty(0)
    for name, plan in variants.items():
        seeds = range(1000, 1000 + len(scenes)) if plan is None else range(len(scenes))
        result = pipe([s.caption for s in scenes], seed=list(seeds), plan=plan or full, output_type="pt")
        pictures = torch.stack(result.images)
        reference = pictures if name == "full run" else reference
        rows.append({"variant": name, **compared(pictures, reference, scenes)})
    return {"guidance": full[0].guidance, "rows": rows}


def compared(pictures: Tensor, reference: Tensor, scenes: Sequence[Any]) -> dict[str, float]:
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    scores = score_suite(scenes, pixels)
    return {
        "overall": scores["overall"],
        "relaxed": scores["relaxed"],
        "psnr": float(psnr(pictures, reference).mean()),
        "ssim": float(ssim(pictures, reference).mean()),
    }


def times(pipe: Pipeline, repeats: int = 5) -> dict[str, Any]:
    """Seconds per picture of the plain run, batch 1 and 8."""
    rows: dict[str, Any] = {"cpu": platform.machine(), "threads": torch.get_num_threads(), "dtype": "float32"}
    for batch in (1, 8):
        prompts = ["a red circle to the left of a blue square"] * batch
        pipe(prompts, seed=0)
        seconds = []
        for repeat in range(repeats):
            trace = pipe(prompts, seed=repeat).trace
            seconds.append(
                (trace.network_milliseconds + trace.text_milliseconds + trace.decode_milliseconds) / 1e3 / batch
            )
        rows[f"batch {batch}"] = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    return rows


def card(measured: dict[str, Any]) -> str:
    training, scores = measured["training"], measured["scores"]
    guidance = [f"{each['guidance']:g}" if isinstance(each["guidance"], float) else "default" for each in scores]
    table = [row("category", *(f"guidance {g}" for g in guidance)), row(*["---"] * (1 + len(scores)))]
    table.append(row("**overall, strict**", *(f"**{each['overall']:.3f}**" for each in scores)))
    table.append(row("overall, relaxed (shape identity ignored)", *(f"{each['relaxed']:.3f}" for each in scores)))
    for category in CATEGORIES:
        table.append(row(category, *(f"{each['categories'][category]:.3f}" for each in scores)))
    stage_table = [row("variant", "strict", "relaxed", "PSNR dB", "SSIM"), row(*["---"] * 5)]
    for r in measured["stages"]["rows"]:
        same = r["variant"] == "full run"
        stage_table.append(
            row(
                r["variant"],
                f"{r['overall']:.3f}",
                f"{r['relaxed']:.3f}",
                "" if same else f"{r['psnr']:.1f}",
                "" if same else f"{r['ssim']:.3f}",
            )
        )
    tokens = [row("scales kept up to", "PSNR dB", "SSIM", "strict"), row(*["---"] * 4)]
    for r in measured["tokenizer"]:
        tokens.append(row(r["up to"], f"{r['psnr']:.1f}", f"{r['ssim']:.3f}", f"{r['overall']:.3f}"))
    time = measured["time"]
    captions = scores[0]["captions"]
    return (
        Path(__file__)
        .with_suffix(".md")
        .read_text()
        .format(
            captions=captions,
            scores="\n".join(table),
            stages="\n".join(stage_table),
            stage_captions=STAGE_CAPTIONS,
            stage_guidance=measured["stages"]["guidance"],
            steps=training["step"],
            minutes=training["minutes"],
            one=time["batch 1"]["median"],
            eight=time["batch 8"]["median"],
            threads=time["threads"],
            tokenizer="\n".join(tokens),
            captions_apart=", ".join(f"{n} of {category}" for category, n in apart(captions).items()),
            error=(scores[0]["overall"] * (1 - scores[0]["overall"]) / captions) ** 0.5,
        )
    )


def apart(captions: int) -> dict[str, int]:
    """How many different captions of each category the score uses."""
    seen: dict[str, set[str]] = {category: set() for category in CATEGORIES}
    for scene in caption_suite(captions):
        seen[scene.category].add(scene.caption)
    return {category: len(found) for category, found in seen.items()}


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
