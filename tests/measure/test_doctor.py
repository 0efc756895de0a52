"""What the doctor says before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stagevar.families.infinity import sizes as infinity
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.loading.sources import load
from stagevar.measure.predict import doctor
from stagevar.memory.limit import INTERPRETER

from ..infinity_files import Published, published, text_encoder
from ..standin import Hub

__all__ = ["published", "text_encoder"]

Run = Callable[..., tuple[int, str, str]]
HUB = "FoundationVision/Infinity"
NETWORK, TOKENIZER = "infinity_2b_reg.pth", "infinity_vae_d32reg.pth"


@pytest.fixture
def online(published: Published, empty_hub: Hub) -> Hub:
    """The tiny 2B model on the hub."""
    files = published("infinity-2b")
    empty_hub.add(HUB, {name: (files / name).read_bytes() for name in (NETWORK, TOKENIZER)})
    encoder = {path.name: path.read_bytes() for path in (files / "flan-t5-xl").iterdir()}
    empty_hub.add(infinity.TEXT_ENCODER, encoder | {"pytorch_model.bin": b"x" * 5000})
    return empty_hub


def told(outcome: tuple[int, str, str]) -> Any:
    assert outcome[0] == 0, outcome
    return json.loads(outcome[1])


def test_downloads_are_listed_with_their_sizes_and_not_begun(online: Hub, command: Run) -> None:
    found = told(command("doctor", "infinity-2b", "--json"))
    sizes = {(file["source"], file["name"]): file["size"] for file in found["files"]}
    assert sizes[HUB, NETWORK] == len(online.repositories[HUB]["main"][NETWORK])
    assert (infinity.TEXT_ENCODER, "model.safetensors") in sizes
    assert (infinity.TEXT_ENCODER, "pytorch_model.bin") not in sizes
    assert found["download"] == sum(sizes.values()) and {file["state"] for file in found["files"]} == {"to download"}
    assert found["licence"] == "mit" and found["ready"] is True
    assert not any(online.downloads(name) for name in (NETWORK, TOKENIZER, "model.safetensors"))


def test_what_is_in_the_cache_need_not_be_downloaded(online: Hub, command: Run) -> None:
    load("infinity-2b")
    for more in ([], ["--local-files-only"]):
        found = told(command("doctor", "infinity-2b", "--json", *more))
        assert found["download"] == 0 and all(file["state"] == "here" and file["size"] for file in found["files"])


def test_without_the_hub_sizes_are_unknown(published: Published, command: Run) -> None:
    published("infinity-2b")
    code, out, _ = command("doctor", "infinity-2b")
    assert code == 1, "what is unknown is not fine"
    assert "NOT ready: unknown: " in out and "ready: it can" not in out


def test_memory_adds_up(command: Run, tmp_path: Path) -> None:
    save_model(tiny("var"), tmp_path)
    one, three = (told(command("doctor", tmp_path, "--batch", n, "--json")) for n in (1, 3))
    assert one["need"] == one["run"]["weights"] + one["peak"] + INTERPRETER
    assert three["run"]["weights"] == one["run"]["weights"]
    assert three["peak"] > one["peak"]
    assert [file["name"] for file in one["files"]] == ["config.json", "model.safetensors"]
    assert one["size"] == [16, 16] and one["download"] == 0 and one["text_encoder"] == 0


def test_text_encoders_count_in_the_dtype_of_the_blocks(published: Published, command: Run) -> None:
    files = published("infinity-2b")
    whole, half = (
        told(command("doctor", "infinity-2b", "--weights", files, "--dtype", dtype, "--json"))
        for dtype in ("float32", "bfloat16")
    )
    assert whole["text_encoder"] == 4 * 1_223_527_424 == 2 * half["text_encoder"]
    assert all(file["state"] == "here" and file["size"] for file in whole["files"])
    assert "flan-t5-xl" in str([file["source"] for file in whole["files"]])


@pytest.mark.parametrize("short", ["free_memory", "_free_disk"])
def test_what_does_not_fit_is_said_and_shows_in_the_exit_code(
    short: str, online: Hub, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, short, lambda *_: 1000)
    code, out, _ = command("doctor", "infinity-2b")
    assert code == 1 and "NOT ready: there is not enough" in out


def test_an_accelerator_changes_what_is_needed(command: Run, tmp_path: Path) -> None:
    save_model(tiny("infinity"), tmp_path)
    plain, short = (
        told(command("doctor", tmp_path, "--accelerator", name, "--json")) for name in ("none", "drop_last(3)")
    )
    assert short["peak"] < plain["peak"]


def test_the_doctor_speaks_of_the_size_that_is_drawn(command: Run, tmp_path: Path) -> None:
    save_model(tiny("var"), tmp_path)
    assert told(command("doctor", tmp_path, "--size", "30x20", "--json"))["size"] == [12, 24]


def test_a_folder_of_ours_on_the_hub_is_not_downloaded_either(empty_hub: Hub, command: Run, tmp_path: Path) -> None:
    save_model(tiny("var"), tmp_path / "own")
    empty_hub.add("me/own", {path.name: path.read_bytes() for path in (tmp_path / "own").iterdir()})
    found = told(command("doctor", "me/own", "--json"))
    assert {file["name"]: file["state"] for file in found["files"]} == {
        "config.json": "here",
        "model.safetensors": "to download",
    }
    assert not empty_hub.downloads("model.safetensors")


# --- what is not there is never fine ---------------------------------------------------------------------------------


def ill(command: Run, *arguments: object) -> dict[str, Any]:
    code, out, _ = command("doctor", *arguments, "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == 1 and not found["ready"] and found["troubles"]
    return found


def test_files_that_are_not_in_the_folder_are_missing(command: Run, tmp_path: Path) -> None:
    found = ill(command, "var-d16", "--weights", tmp_path)
    assert "missing: var_d16.pth" in " ".join(found["troubles"])


def test_a_web_page_in_place_of_weights_is_damaged(command: Run, tmp_path: Path) -> None:
    for name in ("var_d16.pth", "vae_ch160v4096z32.pth"):
        (tmp_path / name).write_text("<!DOCTYPE html>")
    assert {file["state"] for file in ill(command, "var-d16", "--weights", tmp_path)["files"]} == {"damaged"}


@pytest.mark.slow
def test_a_model_without_published_weights_is_not_ready(command: Run) -> None:
    assert "no weights of this model are published" in " ".join(ill(command, "infinity-1b")["troubles"])


def test_a_missing_package_is_named(online: Hub, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert "stagevar[text]" in " ".join(ill(command, "infinity-2b")["troubles"])


@pytest.mark.slow
def test_a_size_that_the_model_was_not_trained_for_is_remarked(online: Hub, command: Run) -> None:
    small, usual = (
        json.loads(command("doctor", "infinity-8b", "--size", size, "--json")[1])["remarks"]
        for size in ("256x256", "1024x1024")
    )
    assert any("trained" in remark for remark in small) and not any("trained" in remark for remark in usual)


def test_the_doctor_takes_what_drawing_takes(command: Run) -> None:
    options = ["--aspect-ratio", "3:2", "--guidance", "2", "--temperature", "0.9", "--top-k", "5", "--top-p", "0.9"]
    code, out, _ = command("doctor", "scenes", *options, "--negative", "x", "--offload-text-encoder", "--json")
    assert code == 0, out


@pytest.mark.parametrize(
    ("flags", "dtype", "told"),
    [
        ("flags : fma amx_bf16 avx2", "float32", True),
        ("flags : fma avx512_bf16", "float32", True),
        ("flags : fma amx_bf16", "bfloat16", False),
        ("flags : fma avx2", "float32", False),
    ],
)
def test_a_cpu_that_gains_by_bfloat16_is_remarked(
    flags: str, dtype: str, told: bool, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr("stagevar.loading.place.CPU_FLAGS", tmp_path / "cpuinfo")
    remarks = json.loads(command("doctor", "scenes", "--dtype", dtype, "--json")[1])["remarks"]
    assert any("--dtype bfloat16" in remark for remark in remarks) == told
