"""The training recipe: what makes a resumed run the run, and its attention against the plain one."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses its own old parts

RECIPE = Path(__file__).parents[2] / "recipes" / "scenes"


@pytest.fixture(autouse=True)
def recipe_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))
    yield
    for name in ("card", "data", "objective", "sheet", "tokenizer", "train"):
        sys.modules.pop(name, None)


def test_segmented_attention_equals_masked_attention_with_its_gradients():
    import objective

    lengths = [1, 4, 9, 16, 36, 64, 20]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, sum(lengths), 8, generator=generator).requires_grad_() for _ in range(3))
    attend = objective.BlockCausal(lengths, torch.device("cpu"))
    attend.mask = attend.mask.float()
    level = torch.cat([torch.full((length,), s) for s, length in enumerate(lengths)])
    mask = level[:, None] >= level[None]
    found = attend(q, k, v, scale=0.3)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    assert torch.allclose(found, want, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), (q, k, v)),
        torch.autograd.grad(want.square().sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_crops_of_the_two_largest_scales_show_the_same_place():
    import random

    import data

    for seed in range(20):
        chosen = data.crop((1, 2, 12, 16), random.Random(seed))
        corners = [divmod(int(chosen[k][0]), side) for k, side in ((2, 12), (3, 16))]
        assert [len(chosen[k]) for k in (2, 3)] == [36, 64]
        for (y, x), (Y, X) in [corners]:
            assert abs(y / 12 - Y / 16) < 0.05 and abs(x / 12 - X / 16) < 0.05


def test_codes_without_noise_are_the_tokenizers_and_the_latents_are_those_the_loop_sees():
    import data

    from stagevar.engine.grids.grid import scales
    from stagevar.families.tiny import tiny

    model = tiny("scenes")
    pictures = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    codes, latents = data.tokenised(model, pictures, 5, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(codes, model.tokenizer.encode(pictures), strict=True))
    latent = torch.zeros(2, 12, 6, 6)
    for at in scales(model.schedule()):
        assert torch.allclose(latents[at.k], latent, atol=1e-6)
        latent = model.add_codes(latent, codes[at.k], at.schedule, at.k)


@pytest.mark.slow
@torch.compiler.set_stance("force_eager")
def test_a_resumed_run_is_the_run(tmp_path):
    import train

    options = argparse.Namespace(run=tmp_path, steps=40, tokens=150, seed=3, muon=0.02, adam=2e-3, every=100, sheet=100)
    run = train.Training(options)
    for _ in range(2):
        run.one_step()
    run.save()
    resumed = train.Training(options)
    assert resumed.step == 2
    run.one_step()
    resumed.one_step()
    for (name, ours), theirs in zip(run.average.named_parameters(), resumed.average.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name
    assert '"step": 3' in resumed.report(with_sheet=False)


def test_the_shipped_card_is_what_its_command_writes_from_the_scores():
    import json

    import card

    from stagevar.families.scenes.sizes import SHIPPED

    measured = json.loads((SHIPPED / "scores.json").read_text())
    assert (SHIPPED / "README.md").read_text() == card.card(measured)
    assert measured["scores"][0]["captions"] >= 600
