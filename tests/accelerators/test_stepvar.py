"""StepVAR: scores and restoration against twins, and the plan."""

import numpy as np
import pytest
import torch

from stagevar.accelerators.base import Facts
from stagevar.accelerators.stepvar import StepVAR, StructureTexture, structure, texture
from stagevar.engine.loop.run import run
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.registry import parse

GRID = (4, 6)


def rows(seed=0, images=2, channels=5):
    return torch.randn(images, GRID[0] * GRID[1], channels, generator=torch.Generator().manual_seed(seed))


def context(images):
    latent = torch.zeros(images, 1, *GRID)
    return TokenContext(4, GRID, 0, 1, None, [0] * images, latent, latent, Memory())


def structure_ref(x):
    """Amplitude along the leading singular vector."""
    centred = x.double().numpy() - x.double().numpy().mean(1, keepdims=True)
    return np.stack([np.abs(each @ np.linalg.svd(each)[2][0]) for each in centred])


def texture_ref(x):
    found = np.zeros(x.shape[:2])
    for place in np.ndindex(*GRID):
        around = [
            (y, z)
            for y in range(place[0] - 1, place[0] + 2)
            for z in range(place[1] - 1, place[1] + 2)
            if 0 <= y < GRID[0] and 0 <= z < GRID[1]
        ]
        mean = x[:, [y * GRID[1] + z for y, z in around]].double().mean(1)
        at = place[0] * GRID[1] + place[1]
        found[:, at] = (x[:, at].double() - mean).square().sum(-1).numpy()
    return found


def test_structure_is_the_amplitude_along_the_leading_direction():
    x = rows() + 4 * torch.randn(2, 24, 1, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 2, 0, 1, 1])
    np.testing.assert_allclose(structure(x).numpy(), structure_ref(x), atol=0.01)


def test_texture_is_the_difference_from_the_neighbours():
    np.testing.assert_allclose(texture(rows(), GRID).numpy(), texture_ref(rows()), rtol=1e-4)


def test_rows_of_the_highest_mean_relative_scores_run():
    x = rows()
    one, other = structure(x).double(), torch.from_numpy(texture_ref(x))
    scores = 2 * one / one.mean(1, keepdim=True) + other / other.mean(1, keepdim=True)
    found = StructureTexture(0.4, weight=2.0).reduce(x.repeat(2, 1, 1), context(2)).index
    assert torch.equal(found, scores.topk(15).indices.sort(1).values.repeat(2, 1))


def test_the_others_copy_the_output_of_the_nearest_row():
    tokens, x = StructureTexture(0.8), rows(images=1)
    reduced = tokens.reduce(x, context(1))
    restored = tokens.restore(x, reduced.x + 1, reduced, context(1))
    for place in range(24):
        apart = [(place // 6 - int(i) // 6) ** 2 + (place % 6 - int(i) % 6) ** 2 for i in reduced.index[0]]
        assert torch.equal(restored[0, place], reduced.x[0, apart.index(min(apart))] + 1)


def test_a_picture_without_contrast_keeps_its_first_rows():
    assert StructureTexture(0.5).reduce(torch.ones(1, 24, 3), context(1)).index.tolist() == [list(range(12))]


def test_the_last_scales_prune_and_no_share_is_the_plain_run():
    plain, model = Plan.uniform(5, guidance=2.0), tiny("scenes")
    plan = StepVAR((0.4, 0.0)).plan(plain, model.schedule(), Facts(2, 1, True))
    assert plan == plain.replace([3], tokens=StructureTexture(0.4))
    condition = model.condition(model.encode_text(["a red star"]))
    plans = [plain, plain.replace([2, 3, 4], tokens=StructureTexture(0.0))]
    drawn = [list(run(model, condition, model.schedule(), [each], [3]))[-1].latent for each in plans]
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("stepvar(prune=(1.0,))", "prune"),
        ("stepvar(prune=('a',))", "shares"),
        ("stepvar(weight=-1.0)", "weight"),
        ("stepvar+stagevar", "both decide the axis"),
    ],
)
def test_settings_out_of_range_are_refused(text, word):
    with pytest.raises(OptionError, match=word):
        parse(text)
