"""SSG: the enlarged prior against a twin, and the plan."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stagevar.accelerators.base import Facts
from stagevar.accelerators.ssg import SSG, FromPrior, enlarged
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.registry import parse

COARSE, FINE = (3, 4), (5, 6)
FACTS = Facts(4, 2, True)


def rows(seed=0):
    return torch.randn(2, COARSE[0] * COARSE[1], 3, generator=torch.Generator().manual_seed(seed))


def spectrum(picture):
    """Amplitudes of the cosines of a map (h, w), wave by wave."""
    h, w = picture.shape
    found = np.zeros((h, w))
    for u, v in np.ndindex(h, w):
        level = math.sqrt((1 if u == 0 else 2) / h) * math.sqrt((1 if v == 0 else 2) / w)
        for y, x in np.ndindex(h, w):
            wave = math.cos(math.pi * (y + 0.5) * u / h) * math.cos(math.pi * (x + 0.5) * v / w)
            found[u, v] += level * picture[y, x] * wave
    return found


def test_the_prior_has_low_frequencies_of_the_rows_and_the_others_of_interpolation():
    x = rows()
    found = enlarged(x, COARSE, FINE)
    for image in range(2):
        for channel in range(3):
            coarse = x[image, :, channel].view(COARSE)
            smooth = F.interpolate(coarse[None, None], FINE, mode="bilinear", align_corners=False)[0, 0]
            want = spectrum(smooth.numpy())
            want[: COARSE[0], : COARSE[1]] = spectrum(coarse.numpy()) * math.sqrt(30 / 12)
            np.testing.assert_allclose(spectrum(found[image, :, channel].view(FINE).numpy()), want, atol=1e-5)


def test_even_logits_stay_even_and_equal_grids_stay():
    assert torch.allclose(enlarged(torch.full((1, 12, 2), 3.0), COARSE, FINE), torch.tensor(3.0), atol=1e-5)
    assert enlarged(x := rows(), COARSE, COARSE) is x
    assert torch.isfinite(enlarged(torch.randn(1, 1, 2), (1, 1), (1, 2))).all()


def test_all_scales_but_the_first_are_corrected_and_the_last_as_given():
    plain, schedule = Plan.uniform(5, guidance=2.0), ((1, 1),) * 5
    plan = SSG(0.2, (0.0, 0.3)).plan(plain, schedule, FACTS)
    assert [each.correct and each.correct.beta for each in plan] == [None, 0.2, 0.2, None, 0.3]
    assert SSG(0.0).plan(plain, schedule, FACTS) == plain
    shorter = SSG(0.2).plan(plain.replace([1, 4], run="skip"), schedule, FACTS)
    assert [each.correct is not None for each in shorter] == [False, False, True, True, False]
    assert shorter.reads[2][0].scale == 0


def test_a_model_with_codes_of_its_own_at_each_scale_refuses_before_drawing():
    with pytest.raises(OptionError, match="codes of its own at each scale"):
        Pipeline(tiny("scenes"))("a star", accelerator="ssg")


def test_what_leaves_rows_out_for_good_is_refused_before_drawing():
    with pytest.raises(OptionError, match="whose rows stayed reduced"):
        Pipeline(tiny("infinity"))("a star", accelerator="stagevar(quality=0.0)+ssg")


@pytest.mark.parametrize(
    ("text", "word"), [("ssg(-2.0)", "beta"), ("ssg(betas=('a',))", "strengths"), ("ssg(betas=(99.0,))", "beta")]
)
def test_settings_out_of_range_are_refused(text, word):
    with pytest.raises(OptionError, match=word):
        parse(text)


def test_a_single_scale_has_nothing_before_it():
    assert SSG().plan(Plan.uniform(1), ((1, 1),), FACTS) == Plan.uniform(1)
    with pytest.raises(OptionError, match="0 to 0 can be named"):
        SSG(betas=(0.5,)).plan(Plan.uniform(1), ((1, 1),), FACTS)
    with pytest.raises(OptionError, match="beta"):
        FromPrior(float("nan"))
