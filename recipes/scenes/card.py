"""Measure the shipped model and write its card: ``python recipes/scenes/card.py``.

All figures of the card come from ``scores.json``, which this command writes beside it; ``--parts`` measures only some
again (none at all: the card is written anew). The text around them is ``card.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stagevar.engine.plan.plan import Plan
from stagevar.families.scenes.sizes import SHIPPED
from stagevar.families.scenes.tokenizer import PatchQuantizer
from stagevar.files import replacing
from stagevar.machine import machine
from stagevar.measure.likeness.fidelity import psnr, ssim
from stagevar.measure.markdown import table
from stagevar.measure.suites.categories import by_category, composition, scores
from stagevar.measure.suites.known import SCENES
from stagevar.measure.suites.score import score
from stagevar.pipeline import Pipeline
from stagevar.request import Request
from stagevar.scenes.captions import CATEGORIES, caption_suite
from stagevar.scenes.oracle import judge
from stagevar.scenes.render import render_batch

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
    reference = torch.from_numpy(render_batch(scenes, random.Random("card"))).permute(0, 3, 1, 2).float() / 255
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
    variants["scales 1 to 3 skipped"] = full.replace([1, 2, 3], run="skip")
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
    found = scores(scenes, [judge(scene, picture) for scene, picture in zip(scenes, pixels, strict=True)])
    return {
        "overall": found["overall"],
        "relaxed": found["relaxed"],
        "psnr": float(psnr(pictures, reference).mean()),
        "ssim": float(ssim(pictures, reference).mean()),
    }


def times(pipe: Pipeline, repeats: int = 5) -> dict[str, Any]:
    """Seconds per picture of the plain run, batch 1 and 8."""
    rows: dict[str, Any] = machine(pipe.model)
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
    training, found, time = measured["training"], measured["scores"], measured["time"]
    questions = SCENES.questions(found[0]["captions"])
    different = {name: len(set(group)) for name, group in by_category(questions, questions).items()}
    return (
        Path(__file__)
        .with_suffix(".md")
        .read_text(encoding="utf-8")
        .format(
            **composition(SCENES, questions),
            apart=", ".join(f"{n} of {category}" for category, n in different.items()),
            scores=score_table(found),
            error=error(found[0]["categories"], dict.fromkeys(CATEGORIES, found[0]["captions"] / len(CATEGORIES))),
            clustered_error=error(found[0]["categories"], different),
            stages=stage_table(measured["stages"]["rows"]),
            stage_captions=STAGE_CAPTIONS,
            stage_guidance=measured["stages"]["guidance"],
            steps=training["step"],
            minutes=training["minutes"],
            one=time["batch 1"]["median"],
            eight=time["batch 8"]["median"],
            threads=time["threads"],
            tokenizer=token_table(measured["tokenizer"]),
        )
    )


def error(shares: Mapping[str, float], counts: Mapping[str, float]) -> float:
    """Standard error of a mean over categories, of so many independent verdicts each."""
    return float(sum(share * (1 - share) / counts[name] for name, share in shares.items()) ** 0.5 / len(shares))


def score_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [["**overall, strict**", *(f"**{each['overall']:.3f}**" for each in found)]]
    rows.append(["overall, relaxed (shape identity ignored)", *(f"{each['relaxed']:.3f}" for each in found)])
    rows += [[name, *(f"{each['categories'][name]:.3f}" for each in found)] for name in CATEGORIES]
    return table(["category", *(f"guidance {each['guidance']:g}" for each in found)], rows)


def stage_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for each in found:
        close = ["", ""] if each["variant"] == "full run" else [f"{each['psnr']:.1f}", f"{each['ssim']:.3f}"]
        rows.append([each["variant"], f"{each['overall']:.3f}", f"{each['relaxed']:.3f}", *close])
    return table(["variant", "strict", "relaxed", "PSNR dB", "SSIM"], rows)


def token_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [[each["up to"], f"{each['psnr']:.1f}", f"{each['ssim']:.3f}", f"{each['overall']:.3f}"] for each in found]
    return table(["scales kept up to", "PSNR dB", "SSIM", "strict"], rows)


if __name__ == "__main__":
    main()
