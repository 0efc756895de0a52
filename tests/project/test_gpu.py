"""The benchmark of CUDA devices: all of its code but the device's own runs on small networks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import NumericError, OptionError
from stagevar.families.catalogue import FAMILIES
from stagevar.families.tiny import tiny
from stagevar.measure.predict.flops import plan_flops
from stagevar.pipeline import Pipeline
from stagevar.registry import known
from stagevar.request import Request

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("gpu", "plain", "store", "plausible", "twin"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_cuda_the_script_says_what_it_needs() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, check=False)
    assert done.returncode == OptionError.exit_code
    assert done.stderr == "benchmarks/gpu.py needs a CUDA device; --tiny runs its code on the CPU\n" and not done.stdout


@pytest.mark.slow
def test_a_tiny_run_reports_all_ways_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import gpu
    from plausible import check

    command = ["gpu.py", "--tiny", "--repeats", "1", "--device", "cpu", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    gpu.main()
    report = json.loads(capsys.readouterr().out)
    assert not list(tmp_path.iterdir())
    check({"date": "2026-01-01T00:00:00+00:00", "commit": "x", "command": "x", "report": report})
    assert {row["family"] for row in report["correct"]} == set(FAMILIES)
    assert all(row["float32_apart"] < 1e-4 < row["bfloat16_apart"] < 0.15 for row in report["correct"])
    plain = [(row["shape"], row["batch"], row["graphs"]) for row in report["rows"] if row["accelerator"] == "none"]
    assert plain == [
        (f"tiny-{name}", n, captured) for name in ("infinity", "var") for n in (1, 2) for captured in (0, 1)
    ]
    ways = {row["accelerator"] for row in report["rows"]} | {row["accelerator"] for row in report["left_out"]}
    assert ways == set(known()) and all(row["why"] for row in report["left_out"])
    assert [(row["shape"], row["batch"]) for row in report["twin"]] == [row[:2] for row in plain[::2]]
    for row in report["rows"]:
        assert 0 < row["roofline_share"] < 1 and row["dtype"] == "bfloat16", row
        assert row["network_seconds"] < row["seconds"]["max"] and row["executed_scales"]


def test_operations_and_bytes_are_those_of_the_passes() -> None:
    import gpu

    pipe = Pipeline(tiny("var"), "drop_last(1)")
    *_, event = pipe.events([Request("3", seed=1), Request("4", seed=2)], output_type="latent")
    assert event.result is not None
    model, schedule = pipe.model, pipe.model.schedule()
    found = list(gpu.passes(model, event.result.trace, event.plans))
    assert len(found) == len(schedule) - 1
    counted = plan_flops(model, schedule, event.plans[0], gpu.WORDS)
    assert [f for f, _ in found] == [2 * row.total for row in counted[:-1]]
    tokens = [h * w for h, w in schedule]
    position = 2 * model.depth * model.config.width * 4
    weights = sum(each.numel() * 4 for each in model.blocks.parameters())
    assert found[2][1] == weights + 4 * position * (sum(tokens[:2]) + 2 * tokens[2])


def test_a_wrong_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu

    monkeypatch.setattr(gpu, "APART", {torch.bfloat16: 1e-6})
    with pytest.raises(NumericError, match="var on cpu in bfloat16: logits are"):
        gpu.checked("var", CPU)
    monkeypatch.setattr(gpu, "APART", {torch.float32: 1e-4})
    monkeypatch.setattr(gpu.Again, "replay", lambda self: None)
    with pytest.raises(NumericError, match=r"graphs draw 0\.\d+ of a picture"):
        gpu.checked("var", CPU)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "scenes"])
def test_random_networks_draw(family: str) -> None:
    import gpu

    changes = {"text_length": gpu.WORDS} if family in ("infinity", "hart") else {}
    small = tiny(family, **changes)
    model = gpu.random_model(family, small.config, small.name, small.defaults, CPU)
    assert model.dtype == torch.bfloat16 and all(not each.is_meta for each in model.state_dict().values())
    (latent,) = Pipeline(model)(gpu.prompts(model, 1), seed=0, output_type="latent").images
    assert torch.isfinite(latent).all() and latent.std() > 0


def test_the_published_shapes_can_be_built() -> None:
    import gpu

    for name, (family, batches) in gpu.CASES.items():
        size = FAMILIES[family].sizes[name]
        with torch.device("meta"):
            model: ScaleModel = FAMILIES[family].build(size.config, name, size.defaults)
        side = 256 if name == "var-d30" else 1024
        assert model.picture_size(model.schedule()) == (side, side) and batches[0] == 1
