"""The twin that the plain run is timed against computes what the authors' code computes: it is a fair rival."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stagevar.engine.contract.text import Text
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.families.tiny import tiny
from stagevar.measure.conform import infinity, var
from stagevar.measure.conform.conform import Probe

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SETS = [
    folder
    for root in (GOLDEN, Path(os.environ.get("STAGEVAR_GOLDEN") or GOLDEN))
    for folder in sorted(root.iterdir())
    if folder.name in ("infinity", "infinity_patchify", "var", "var_shared_adaln")
]


FILES: dict[str, Callable[[Path], Any]] = {
    "config.json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    "weights.safetensors": load_file,
    "io.safetensors": load_file,
}


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in ("plain", "store", "plausible", "twin"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("folder", dict.fromkeys(SETS), ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_the_twin_reproduces_stored_greedy_runs(folder: Path) -> None:
    from twin import Twin

    probe = Probe(folder, *(read(folder / name) for name, read in FILES.items()))
    codes: dict[int, Tensor] = {}

    def watch(k: int, logits: Tensor, found: Tensor) -> None:
        codes[k] = found
        if (stored := probe.stored.get(f"ar.logits.{k}")) is not None:
            torch.testing.assert_close(logits, stored.view_as(logits), atol=2e-3, rtol=1e-4)

    options: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "greedy": True, "watch": watch}
    if folder.name.startswith("var"):
        model, schedule, plan = var.build(probe)
        guidance = [scale.guidance for scale in plan]
        text = Text(probe.input("label").split(1))
        Twin(model).latent(text, schedule, guidance, 1.0, **options)
        wanted = "ar.idx"
    else:
        network = infinity.build(probe)
        schedule = tuple((int(h), int(w)) for _, h, w in probe.config["derived"]["scale_schedule"])
        guidance, temperature = list(probe.config["cfg_list"]), list(probe.config["tau_list"])
        Twin(network).latent(infinity.split_text(probe, "text"), schedule, guidance, temperature, **options)
        wanted = "ar.bits"
    for k, found in codes.items():
        stored = probe.stored[f"{wanted}.{k}"]
        assert torch.equal(found.view_as(stored), stored.long()), k


@pytest.mark.parametrize("family", ["var", "infinity"])
def test_twin_and_engine_draw_the_same_likeliest_codes(family: str) -> None:
    from twin import Twin

    model: Any = tiny(family)
    schedule, guidance = model.schedule(), 2.0
    text = Text((torch.tensor([3]), torch.tensor([7]))) if family == "var" else model.blank_text(5)
    if family == "infinity":
        text = Text(tuple(torch.randn(length, text.features[0].shape[1]) for length in (5, 2)))
    weights = model.guidance_schedule(guidance, schedule)
    latent = Twin(model).latent(text, schedule, weights, 1.0, top_k=0, top_p=1.0, greedy=True)
    plan = Plan.uniform(len(schedule), guidance=list(weights), top_k=1)
    *_, last = run(model, model.condition(text), schedule, [plan] * 2, [0, 0])
    torch.testing.assert_close(latent, last.latent, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(Twin(model).decode(latent), model.decode(last.latent), atol=1e-3, rtol=1e-3)


def test_the_twin_draws_codes_as_often_as_they_are_likely() -> None:
    from twin import sample

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, 4)
    assert set(sample(logits, 3, 0.9).tolist()) == {0, 1, 2}
    shares = torch.bincount(sample(logits, 0, 1.0), minlength=4) / 4000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.04)
