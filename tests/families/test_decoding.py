"""Decoding in bands of rows: the picture of the whole decoder, in less memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from stagevar.families.tiny import randomize
from stagevar.families.tokenizers import decoding
from stagevar.families.tokenizers.autoencoder import Decoder
from stagevar.families.tokenizers.decoding import decoded, picture
from stagevar.memory.predict import Ledger

PLAIN_HEAP = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def decoder(attention: bool) -> Decoder:
    made = Decoder((1, 2, 2), 32, 1, 8, attention)
    randomize(made, 0)
    with torch.no_grad():
        for norm in (each for each in made.modules() if isinstance(each, torch.nn.GroupNorm)):
            norm.bias += 0.5  # where zeros are padded before a norm, the rows at a seam then show it
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("grid", [(5, 4), (1, 3), (4, 7)], ids=str)
@pytest.mark.parametrize("band", [1, 2000, 10**6])
def test_bands_give_the_picture_of_the_whole_decoder(attention: bool, grid: tuple[int, int], band: int) -> None:
    made, x = decoder(attention), torch.randn(1, 8, *grid)
    banded = picture(made, x, whole=0, band=band)
    assert banded.shape == (1, 3, 4 * grid[0], 4 * grid[1])
    torch.testing.assert_close(banded, made(x), rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU computes no bfloat16")
def test_bands_of_a_decoder_with_levels_in_bfloat16_round_no_more_than_it() -> None:
    made, x = decoder(attention=False), torch.randn(1, 8, 5, 4)
    exact = made(x)
    made.halve(2)
    banded, rounding = picture(made, x, whole=0, band=2000), (made(x) - exact).square().mean().sqrt()
    assert rounding > 0
    assert (banded - exact).square().mean().sqrt() < 1.2 * rounding


def test_the_statistics_of_a_norm_are_those_of_the_whole_picture() -> None:
    """Rows of very different size: statistics of a band would be others. A mean far from 0 costs few digits."""
    norm = torch.nn.GroupNorm(32, 64)
    randomize(norm, 1)
    x = torch.randn(1, 64, 9, 5) * torch.arange(1.0, 10)[:, None] + 50
    x = x.contiguous(memory_format=torch.channels_last)
    rows = decoding._normalised(norm, x, band=1)
    torch.testing.assert_close(rows(x[:, :, 2:5]), F.silu(norm(x))[:, :, 2:5], rtol=0, atol=2e-4)


def test_only_large_maps_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = decoder(True), torch.randn(2, 8, 4, 4)
    plain = torch.cat([(made(each).clamp(-1, 1) + 1) / 2 for each in x.split(1)])
    monkeypatch.setattr(decoding, "_convolved", None)
    assert torch.equal(decoded(made, x), plain)
    with pytest.raises(TypeError, match="NoneType"):
        picture(made, x[:1], whole=1000)


CODE = """
import sys
from pathlib import Path
import torch
from stagevar.families.tokenizers.autoencoder import Decoder
from stagevar.families.tokenizers.decoding import picture

def resident(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])

torch.set_num_threads(1)
decoder = Decoder((1, 1, 1), 32, 1, 8).to(memory_format=torch.channels_last)
with torch.inference_mode():
    picture(decoder, torch.randn(1, 8, 4, 4), whole=0, band=64)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    picture(decoder, torch.randn(1, 8, 128, 128), whole=int(sys.argv[1]), band=2**18)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the resident set from /proc")
def test_a_process_needs_two_large_maps_in_place_of_four_or_more() -> None:
    def grown(whole: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(whole)], env=PLAIN_HEAP, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    largest = 4 * 32 * 512 * 512
    whole, banded = grown(2**40), grown(2**18)
    assert whole > 3.9 * largest
    assert banded < 2.5 * largest


def test_the_prediction_counts_bands() -> None:
    peaks = []
    for whole in (2**40, 2**18):
        with FakeTensorMode(), torch.inference_mode(), Ledger() as ledger:
            picture(Decoder((1, 1, 1), 32, 1, 8), torch.empty(1, 8, 128, 128), whole=whole, band=2**18)
            peaks.append(ledger.lap() / (4 * 32 * 512 * 512))
    assert peaks[0] > 3.9
    assert peaks[1] < 2.5
