"""Measure the model of photographs and write its card: ``PYTHONPATH=recipes python -m photos.card``.

All figures of the card come from ``scores.json``, which this command writes beside the weights; ``--parts`` measures
only some again (none at all: the card is written anew). The text around them is ``card.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from photos.render import Renderer
from sheet import contact_sheet
from tokenizer import coded
from torch import Tensor

from stagevar.families.scenes.network import Scenes
from stagevar.files import replacing
from stagevar.machine import machine
from stagevar.measure.likeness.fidelity import band_energy, psnr, ssim
from stagevar.measure.markdown import table
from stagevar.measure.suites.categories import composition, scores
from stagevar.measure.suites.photos import Photos
from stagevar.photos.captions import CATEGORIES, Scene, caption_suite
from stagevar.pipeline import Pipeline

MODEL = Path(__file__).parents[2] / "models" / "photos"
LICENCE = Path("/usr/share/common-licenses/GPL-3")
"""Where Debian keeps the text; the material comes from there as well."""
PARTS = ("training", "reader", "tokenizer", "scores")
BATCH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=600)
    parser.add_argument("--run", type=Path, default=Path("runs/photos"), help="folder of the training run")
    parser.add_argument(
        "--earlier", nargs=2, type=int, default=(0, 0), metavar=("STEPS", "MINUTES"), help="of the runs before it"
    )
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="what to measure again")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(str(MODEL), device="cpu")
    model = pipe.model
    assert isinstance(model, Scenes)
    scenes, suite = caption_suite(options.captions), Photos(model.reader)
    renders = pixels(Renderer(options.run / "material").render_batch(scenes, random.Random("card")))
    file = MODEL / "scores.json"
    measured = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    measure: dict[str, Callable[[], Any]] = {
        "training": lambda: training(options.run, *options.earlier),
        "reader": lambda: reader(suite, scenes, renders, coded(model.tokenizer, renders)),
        "tokenizer": lambda: tokenizer(model, renders[:120]),
        "scores": lambda: drawn(pipe, suite, scenes, renders),
    }
    for part in options.parts:
        measured[part] = measure[part]()
        with replacing(file) as path:
            path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(LICENCE, MODEL / "LICENSE")
    with replacing(MODEL / "README.md") as path:
        path.write_text(card(measured), encoding="utf-8")


def training(run: Path, steps: int, minutes: int) -> dict[str, Any]:
    """The last line of a run's log, with the steps and minutes of the runs that it went on from."""
    line = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    return json.loads(line) | {"earlier": {"steps": steps, "minutes": minutes}}


def pixels(pictures: Any) -> Tensor:
    """uint8 (n, h, w, 3) to (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def reader(suite: Photos, scenes: Sequence[Scene], renders: Tensor, decoded: Tensor) -> dict[str, Any]:
    """Shares of pictures of held-out scenes that the reader accepts: renders, renders seen through their codes, and
    renders with the caption of the next scene of the same category."""
    wrong = [*scenes[len(CATEGORIES) :], *scenes[: len(CATEGORIES)]]
    rows = {"renders": (scenes, renders), "decoded": (scenes, decoded), "wrong captions": (wrong, renders)}
    return {name: scores(asked, suite.judge(asked, shown)) for name, (asked, shown) in rows.items()}


def tokenizer(model: Scenes, renders: Tensor) -> list[dict[str, Any]]:
    """Rendered held-out pictures coded and decoded up to each scale."""
    rows, latent = [], torch.zeros_like(model.tokenizer.features(renders))
    for k, codes in enumerate(model.tokenizer.encode(renders)):
        latent = latent + model.tokenizer.upsampled(k, codes)
        shown, grid = model.tokenizer.decode(latent), model.config.grids[k]
        close = {"psnr": float(psnr(shown, renders).mean()), "ssim": float(ssim(shown, renders).mean())}
        rows.append({"up to": f"{grid}x{grid}", **close})
    return rows


def drawn(pipe: Pipeline, suite: Photos, scenes: Sequence[Scene], renders: Tensor) -> dict[str, Any]:
    """The reader's verdicts on generated pictures, picture i with seed i, and how far the mean energy of their radial
    bands lies from that of the renders, in dB."""
    pictures = torch.empty(0, *renders.shape[1:])
    for start in range(0, len(scenes), BATCH):
        captions = [scene.caption for scene in scenes[start : start + BATCH]]
        seeds = list(range(start, start + len(captions)))
        result = pipe(captions, seed=seeds, batch_size=BATCH, output_type="pt")
        pictures = torch.cat([pictures, torch.stack(result.images)])
    contact_sheet(pictures[:40], MODEL / "sheet.png", columns=10)
    bands = 10 * (band_energy(pictures).mean(0) / band_energy(renders).mean(0)).log10()
    return {
        **scores(scenes, suite.judge(scenes, pictures)),
        **composition(suite, scenes),
        **machine(pipe.model),
        "bands": bands.tolist(),
        "guidance": pipe.model.defaults.guidance,
    }


def card(measured: Mapping[str, Any]) -> str:
    run, read, found = measured["training"], measured["reader"], measured["scores"]
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return text.format(
        **{name: found[name] for name in ("captions", "held_out", "different", "overall", "relaxed", "error")},
        guidance=found["guidance"],
        steps=run["earlier"]["steps"] + run["step"],
        last=run["step"],
        minutes=run["earlier"]["minutes"] + run["minutes"],
        scores=table(["category", "strict", "relaxed"], score_rows(found)),
        renders=read["renders"]["overall"],
        decoded=read["decoded"]["overall"],
        wrong=read["wrong captions"]["overall"],
        bands=", ".join(f"{band:+.1f}" for band in found["bands"]),
        tokenizer=table(
            ["scales kept up to", "PSNR dB", "SSIM"],
            [[row["up to"], f"{row['psnr']:.1f}", f"{row['ssim']:.3f}"] for row in measured["tokenizer"]],
        ),
    )


def score_rows(found: Mapping[str, Any]) -> list[list[str]]:
    rows = [["**overall**", f"**{found['overall']:.3f}**", f"{found['relaxed']:.3f}"]]
    both = found["categories"], found["relaxed_categories"]
    return rows + [[name, *(f"{shares[name]:.3f}" for shares in both)] for name in CATEGORIES]


if __name__ == "__main__":
    main()
