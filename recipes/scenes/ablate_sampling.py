"""Guidance and late temperatures of the shipped model: ``python recipes/scenes/ablate_sampling.py``.

Draws the same captions of the suite with the same noise under each setting and prints a table for the README.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagevar.files import replacing
from stagevar.measure.markdown import table
from stagevar.measure.suites.score import score
from stagevar.pipeline import Pipeline

LATE = 4
"""How many of the last scales the late temperature is for."""

FALLING = (5.0, 5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 2.0, 1.5, 1.0)


def settings(default: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Name of a setting to fields of a request; ``default`` has the model's temperatures."""

    def late(temperature: float) -> tuple[float, ...]:
        return tuple(default[:-LATE]) + (temperature,) * LATE

    rows: dict[str, dict[str, Any]] = {f"guidance {g:g}": {"guidance_scale": g} for g in (1.0, 2.0, 3.0, 4.0, 6.0)}
    rows["guidance falling 5 to 1"] = {"guidance_scale": FALLING}
    rows |= {f"late temperature {t:g}": {"temperature": late(t)} for t in (0.0, 0.15, 0.5, 1.0)}
    rows["all temperatures 1"] = {"temperature": 1.0}
    rows["temperature 0 everywhere"] = {"temperature": 0.0}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "ablation_sampling.json")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained("scenes", device="cpu")
    temperatures = pipe.model.defaults.temperature
    assert isinstance(temperatures, tuple)
    results: dict[str, dict[str, Any]] = {}
    for name, fields in settings(temperatures).items():
        guidance = fields.pop("guidance_scale", None)
        results[name] = score(pipe, captions=options.captions, guidance=guidance, **fields)
        print(f"{name}: {results[name]['overall']:.3f}", flush=True)
    rows = [[name, f"{found['overall']:.3f}", f"{found['relaxed']:.3f}"] for name, found in results.items()]
    print(table(["setting (others at their default)", "strict", "relaxed"], rows))
    with replacing(options.out) as path:
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
