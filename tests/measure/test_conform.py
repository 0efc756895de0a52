"""The engine against stored reference outputs, and the comparison against what it must not let pass.

``STAGEVAR_GOLDEN`` may name a folder with more sets; those that the package has checks for are run as well.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stagevar.errors import ForeignCheckpointError, MissingFileError, OptionError, ShapeError, UnknownModelError
from stagevar.measure.conform.conform import Probe, Report, Row, conform
from stagevar.measure.conform.precise import SPREAD, in_float64

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDED = GOLDEN / "infinity_patchify"
CHECKED = ("var", "infinity", "star", "switti", "hart", "acc_")
SETS = [
    folder
    for root in (GOLDEN, Path(os.environ.get("STAGEVAR_GOLDEN") or GOLDEN))
    for folder in sorted(root.iterdir())
    if folder.name.startswith(CHECKED)
]
SLOW = ("acc_plain", "acc_stagevar_all", "acc_skipvar", "acc_scalekv", "acc_sparvar")
"""They take up to ten seconds each."""


@pytest.mark.parametrize(
    "folder",
    [pytest.param(f, marks=pytest.mark.slow if f.name.startswith(SLOW) else ()) for f in dict.fromkeys(SETS)],
    ids=lambda folder: f"{folder.parent.name}/{folder.name}",
)
def test_the_engine_reproduces(folder: Path) -> None:
    report = conform(folder)
    assert not report.failures
    assert not report.unchecked
    assert report.ok
    assert report.checked >= 28


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a set with something changed."""

    def alter(
        source: Path = FOLDED,
        weights: Callable[[dict[str, Tensor]], object] | None = None,
        io: Callable[[dict[str, Tensor]], object] | None = None,
        config: Callable[[dict[str, Any]], object] | None = None,
    ) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(source, folder)
        for name, change in (("weights", weights), ("io", io)):
            if change is not None:
                path = folder / f"{name}.safetensors"
                tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
                change(tensors)
                path.unlink()
                save_file(tensors, path)
        if config is not None:
            settings = json.loads((folder / "config.json").read_text())
            config(settings)
            (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return alter


@pytest.mark.parametrize(
    ("weight", "first"),
    [
        ("vae.encoder.conv_in.conv.bias", "vae.enc_feature"),
        ("vae.decoder.up.0.block.1.norm2.norm.weight", "vae.recon"),
        ("infinity.text_norm.weight", "text.sos"),
        ("infinity.block_chunks.1.module.0.sa.scale_mul_1H11", "tf.logits"),
        ("infinity.block_chunks.0.module.0.ada_gss", "tf.block0_first3"),
        ("infinity.cfg_uncond", "ar.logits.0"),
        ("infinity.head.bias", "tf.logits"),
    ],
)
def test_a_perturbed_weight_is_noticed(altered: Callable[..., Path], weight: str, first: str) -> None:
    report = conform(altered(weights=lambda tensors: tensors[weight].add_(0.05)))
    assert not report.ok
    assert first in [row.tensor for row in report.failures]


def test_one_wrong_number_or_bit_is_noticed(altered: Callable[..., Path]) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["ar.logits.2"][0, 0, 0, 0] = math.nan
        tensors["midcfg.bits.3"][1, 5, 7] ^= 1
        tensors["vae.bits.4"] = tensors["vae.bits.4"][:, 0]
        tensors["tf.bits.4"][0, 0, 0] ^= 1
        tensors["text.sos"][0, 0] += 1e-3

    report = conform(altered(io=spoil))
    assert {row.tensor for row in report.failures} >= {"ar.logits.2", "midcfg.bits.3", "vae.bits.4", "text.sos"}
    assert "tf.bits.4" not in {row.tensor for row in report.failures}, "the encoder's bits have an allowance"
    assert not report.ok
    json.dumps(report.to_json(), allow_nan=False)


def test_a_tensor_that_nobody_checks_is_a_failure(altered: Callable[..., Path]) -> None:
    folder = altered(io=lambda tensors: tensors.update({"ar.surprise": torch.ones(2), "stoch.bits.0": torch.ones(2)}))
    report = conform(folder)
    assert not report.failures
    assert not report.ok
    assert report.unchecked == ("ar.surprise",)
    assert report.to_json()["unchecked"] == ["ar.surprise"]


def test_a_report_is_plain_data() -> None:
    report = Report("a", (Row("x", 1e-6, 1e-4), Row("y", 0.5, 1.0), Row("z", 0.0, 0.0)))
    assert report.to_json() == {
        "set": "a",
        "ok": True,
        "checked": 3,
        "worst": {"tensor": "y", "error": 0.5, "tolerance": 1.0},
    }
    assert not Report("a", ()).ok
    assert Report("a", ()).to_json()["worst"] is None
    broken = Report("a", (Row("x", math.inf, 1.0), Row("bits", 0.25, 0.0)))
    assert [row.tensor for row in broken.failures] == ["x", "bits"]
    assert broken.to_json()["worst"] == {"tensor": "x", "error": None, "tolerance": 1.0}


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("rope.cos_sin", 2e-5),
        ("text.ca_kv", 2e-5),
        ("vae.enc_feature", 2e-5),
        ("vae.recon", 5e-4),
        ("tf.logits_null", 5e-4),
        ("tf.block0_first3", 5e-4),
        ("ar.block0.1", 5e-4),
        ("ar.logits.12", 2e-3),
        ("neg.latent_final", 2e-4),
        ("ar.next_in.3", 2e-4),
        ("smooth.image", 5e-4),
        ("stage2.logits", 5e-4),
    ],
)
def test_tolerance_by_kind(name: str, tolerance: float) -> None:
    probe = Probe(GOLDEN, {}, {}, {name: torch.zeros(3)})
    probe.numbers(name, torch.tensor([0.0, 0.5, 0.1]) * tolerance)
    probe.numbers("absent", torch.zeros(3))
    assert len(probe.rows) == 1
    assert probe.rows[0].tolerance == pytest.approx(tolerance)
    assert probe.rows[0].ratio == pytest.approx(0.5)


def test_a_stored_value_that_is_no_number_is_the_worst(altered: Callable[..., Path]) -> None:
    report = conform(altered(io=lambda t: t.update({"text.sos": torch.full_like(t["text.sos"], torch.nan)})))
    assert not report.ok and report.worst is not None
    assert report.to_json()["worst"] == {"tensor": "text.sos", "error": None, "tolerance": 2e-5}


def test_unusable_folders_are_explained_in_one_line(altered: Callable[..., Path], tmp_path: Path) -> None:
    def fails(error: type[Exception], match: str, folder: Path) -> None:
        with pytest.raises(error, match=match) as caught:
            conform(folder)
        assert "\n" not in str(caught.value)
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)

    def without(file: str) -> Path:
        folder = altered()
        (folder / file).unlink()
        return folder

    def truncated(file: str) -> Path:
        folder = altered()
        (folder / file).write_bytes((folder / file).read_bytes()[:100])
        return folder

    fails(MissingFileError, "config.json", tmp_path / "nowhere")
    fails(MissingFileError, "io.safetensors", without("io.safetensors"))
    fails(MissingFileError, "weights.safetensors", without("weights.safetensors"))
    fails(ForeignCheckpointError, "not JSON", truncated("config.json"))
    fails(ForeignCheckpointError, "truncated", truncated("weights.safetensors"))
    fails(ForeignCheckpointError, "lacks 'transformer'", altered(config=lambda c: c.pop("transformer")))
    fails(ForeignCheckpointError, "does not describe", altered(config=lambda c: c["transformer"].update(num_heads=0)))
    fails(ForeignCheckpointError, "missing", altered(weights=lambda w: w.pop("infinity.head.bias")))
    fails(
        ShapeError,
        r"infinity\.head\.bias is \(3,\)",
        altered(weights=lambda w: w.update({"infinity.head.bias": torch.ones(3)})),
    )
    fails(ForeignCheckpointError, "text.feat", altered(io=lambda t: t.pop("text.feat")))
    fails(ForeignCheckpointError, "adds up", altered(io=lambda t: t["text.lens"].add_(1)))
    fails(
        ForeignCheckpointError,
        "fit together",
        altered(io=lambda t: t.update({"text.feat": t["text.feat"][:, :3].clone()})),
    )
    fails(ForeignCheckpointError, "fit together", altered(io=lambda t: t.update({"vae.latent_in": torch.ones(3)})))
    fails(UnknownModelError, "'mystery'", altered(config=lambda c: c.update(model="mystery")))
    fails(UnknownModelError, "no checks", altered(config=lambda c: c.update(model="../infinity")))
    fails(OptionError, "use_bit_label", altered(config=lambda c: c.update(use_bit_label=0)))


ACCELERATED = GOLDEN / "acc_stagevar"


@pytest.mark.parametrize(
    ("name", "change", "first"),
    [
        ("noise_pool", lambda t: t.add_(1), "proj.10.0"),
        ("kv_len", lambda t: t[-1].add_(1), "kv_len"),
    ],
)
def test_an_altered_accelerated_set_does_not_hold(tmp_path, name, change, first) -> None:
    folder = tmp_path / "acc_stagevar"
    shutil.copytree(ACCELERATED, folder)
    shutil.copytree(GOLDEN / "acc_plain", tmp_path / "acc_plain")
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / "io.safetensors").items()}
    change(tensors[name])
    (folder / "io.safetensors").unlink()
    save_file(tensors, folder / "io.safetensors")
    assert first in {row.tensor for row in conform(folder).failures}


def test_an_altered_choice_of_rows_does_not_hold(tmp_path) -> None:
    for name in ("acc_fastvar", "acc_plain"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    path = tmp_path / "acc_fastvar" / "io.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    kept = set(tensors["keep.9"][0, 0, 0].tolist())
    tensors["keep.9"][0, 0, 0, 3] = next(row for row in range(1024) if row not in kept)
    tensors["restored.9.layer3.ca"][5] += 0.01
    path.unlink()
    save_file(tensors, path)
    assert {row.tensor for row in conform(path.parent).failures} == {"keep.9", "restored.9.layer3.ca"}


def test_methods_without_an_accelerator_are_named(tmp_path) -> None:
    shutil.copytree(GOLDEN / "acc_plain", tmp_path / "acc_plain")
    config = tmp_path / "acc_plain" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"method": "dreaming"}))
    with pytest.raises(OptionError, match="dreaming"):
        conform(tmp_path / "acc_plain")


def test_inside_everything_is_float64() -> None:
    with in_float64():
        made = (
            torch.zeros(2, dtype=torch.float32),
            torch.ones(2).float(),
            torch.ones(2).to(torch.float32),
            torch.rand(2),
        )
    assert {each.dtype for each in made} == {torch.float64}
    assert torch.zeros(1).dtype == torch.float32


def test_a_chaotic_tensor_may_differ_by_what_the_engine_itself_errs() -> None:
    stored = {"smooth.h.0": torch.zeros(4), "smooth.h.1": torch.zeros(4)}
    exactly = {name: torch.full((4,), 1e-3, dtype=torch.float64) for name in stored}
    probe = Probe(Path("set"), {}, {}, stored, exactly=exactly)
    probe.chaotic("smooth.h.0", torch.full((4,), 2e-3), 1e-4)
    probe.chaotic("smooth.h.1", torch.full((4,), 1e-3), 1e-4)
    known, unknown = probe.rows
    assert known.tolerance == pytest.approx(1e-4 + SPREAD * 1e-3, rel=1e-3) and known.ok
    assert unknown.tolerance == pytest.approx(1e-4, rel=1e-2) and not unknown.ok, "it does not err, so it must agree"
