"""A study on disk: its tables as Markdown, all numbers as JSON, the plots and the profile in one folder."""

from __future__ import annotations

import json
from pathlib import Path

from stagevar.files import replacing
from stagevar.measure.likeness.fidelity import MAX_PSNR
from stagevar.measure.markdown import table
from stagevar.measure.study.curves import Curve, Study
from stagevar.measure.study.plots import LABELS, PLOTS, available, write_plots
from stagevar.measure.study.spectrum import rank_name
from stagevar.profile import Boundary, StageProfile
from stagevar.saved import require_results

SHEET = "pictures"
"""Name of the sheet of intermediate pictures, without suffix."""

TEXTS = ("study.json", "study.md", "profile.json")


def require_folder(folder: Path) -> None:
    """Raise if files of others are in the place of what a study writes.

    Raises:
        OutputError
    """
    pictures = (f"{name}.png" for name in (*PLOTS, SHEET))
    require_results([folder / name for name in (*TEXTS, *pictures)], "stagevar study")


def write_report(study: Study, profile: StageProfile, folder: Path) -> list[Path]:
    """Write ``study.json``, ``study.md``, ``profile.json`` and the plots, each whole or not at all.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the folder cannot be written, or a file of others is in the place of one.
    """
    available()
    require_folder(folder)
    data, page, stages = [folder / name for name in TEXTS]
    for path, text in ((data, json.dumps(study.to_dict()) + "\n"), (page, markdown(study, profile))):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    profile.save(stages)
    return [data, page, stages, *write_plots(study, profile, folder)]


def markdown(study: Study, profile: StageProfile) -> str:
    """The study as tables: mean and standard deviation over prompts."""
    likeness = {**study.of("semantic"), **study.of("structural")}
    inner = {**study.of("guidance"), **study.of("change")}
    bands = study.of("spectral")
    costs = study.of("cost")
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    parts = [
        f"# Stages of {study.model}",
        f"{len(study.prompts)} prompts, first seed {study.seed}, guidance {_guidance(study)}, "
        f"{study.size[1]}x{study.size[0]} pixels; {study.device}, "
        f"{study.dtype}, batches of {study.batch_size}, one picture of warm-up; {versions}. "
        "Figures are mean ± standard deviation over prompts.",
        "## Stages",
        _stages(profile),
        "## Likeness to the final picture",
        f"The last scale is compared with itself; {MAX_PSNR:.0f} dB stands for equal pictures.",
        _table(study, likeness),
        _image("similarity"),
        _image(SHEET),
        "## Spectral energy over the final picture's",
        "Octaves of spatial frequency up to the Nyquist frequency, lowest first.",
        _table(study, bands),
        _image("spectrum"),
        "## Guidance and change of the latent",
        _table(study, inner),
        _image("guidance"),
        _image("change"),
        "## Rank of the block groups' inputs",
        f"Rank for 96% of the centred energy over the number of rows, prompt branch, {study.rank_prompts} prompts.",
        _table(study, {f"group {g}": figures[rank_name(0.96)] for g, figures in enumerate(study.groups)}),
        _image("ranks"),
        "## Cost",
        "Of one picture, all branches that run; operations are counted from shapes, text and decoding are not in them.",
        _table(study, costs),
        _image("cost"),
    ]
    return "\n\n".join(parts) + "\n"


def _guidance(study: Study) -> str:
    weights = sorted(set(study.guidance))
    return f"{weights[0]:g}" if len(weights) == 1 else f"{weights[0]:g} to {weights[-1]:g}"


def _stages(profile: StageProfile) -> str:
    rows = [_stage("semantic", profile.semantic, profile), _stage("structure", profile.structure, profile)]
    head = ["stage", "ends with scale", "share of the final side", "over prompts (10% to 90%)", "rule"]
    note = "What comes after is the fidelity stage."
    if profile.structure.scale == len(profile.schedule) - 1:
        note = "There is no fidelity stage by these rules."
    return table(head, rows) + f"\n\n{note}"


def _stage(name: str, end: Boundary, profile: StageProfile) -> list[str]:
    h, w = profile.schedule[end.scale]
    rule = f"{' and '.join(LABELS.get(curve, curve) for curve in end.rule.curves)} stay at {end.rule.reach:.0%}"
    spread = f"{end.mean:.2f} ± {end.std:.2f} ({end.low:.2f} to {end.high:.2f})"
    return [name, f"{end.scale} ({h}x{w})", f"{end.share:.3f}", spread, f"{rule} of the final value"]


def _table(study: Study, curves: dict[str, Curve]) -> str:
    """One row per scale, one column per curve."""
    head = ["scale", "grid", "tokens", *(LABELS.get(name, name) for name in curves)]
    rows = [
        [str(k), grid, str(tokens), *(_cell(curve, k) for curve in curves.values())]
        for k, (grid, tokens) in enumerate(zip(study.grids, study.tokens, strict=True))
    ]
    return table(head, rows)


def _cell(curve: Curve, k: int) -> str:
    form = ".4g" if curve.kind == "cost" else ".1f" if curve.unit else ".3f"
    return f"{curve.mean[k]:{form}} ± {curve.std[k]:{form}}"


def _image(name: str) -> str:
    return f"![{name}]({name}.png)"
