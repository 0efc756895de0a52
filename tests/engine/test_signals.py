import math

import pytest
import torch

from stagevar.engine.grids.latent import contrast
from stagevar.engine.loop.run import run
from stagevar.engine.plan import signals
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.signals import SUPPORT_ENERGIES, coverage, flipped, measure, support
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline


def change(n=2, D=3, side=16, seed=0):
    return torch.randn(n, D, side, side, generator=torch.Generator().manual_seed(seed))


def test_support_is_the_smallest_share_that_holds_the_energy():
    x = torch.zeros(2, 1, 8, 8)
    x[0, 0, 0, :4] = 1
    x[1] = 1
    few, every = support(x).tolist()
    assert few == [2 / 64 if energy <= 0.5 else 4 / 64 for energy in SUPPORT_ENERGIES]
    assert every == [pytest.approx(math.ceil(energy * 64) / 64, abs=1 / 64 + 1e-6) for energy in SUPPORT_ENERGIES]


def test_coverage_reads_between_the_measured_energies():
    shares = tuple(energy / 2 for energy in SUPPORT_ENERGIES)
    assert [coverage(shares, energy) for energy in SUPPORT_ENERGIES] == pytest.approx(shares)
    assert coverage(shares, 0.65) == pytest.approx(0.325)
    assert coverage(shares, 0.0) == 0 and coverage(shares, 1.0) == 1
    assert shares[-1] < coverage(shares, 0.9995) < 1


def test_contrast_is_the_energy_of_steps_to_the_neighbours():
    x, expected = change(n=1, side=4), torch.zeros(1, 1, 4, 4)
    for row in range(4):
        for column in range(4):
            for up, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                if 0 <= row + up < 4 and 0 <= column + right < 4:
                    step = x[0, :, row, column] - x[0, :, row + up, column + right]
                    expected[0, 0, row, column] += step.square().sum()
    assert torch.allclose(contrast(x), expected, atol=1e-5)
    assert not contrast(torch.ones(1, 3, 1, 1)).any()


def test_bands_tell_coarse_changes_from_fine_ones():
    coarse = torch.nn.functional.interpolate(change(side=2), (16, 16), mode="bilinear")
    fine = change(seed=1)
    fine[:, :, ::2, ::2] = -fine[:, :, 1::2, 1::2]
    latent, logits = change(seed=2), torch.randn(2, 5, 7)
    low, high = measure(logits, None, coarse, latent)[0], measure(logits, None, fine, latent)[0]
    assert low.low / low.high > 5 * high.low / high.high
    assert low.flips is None and 1 / 7 < low.confidence < 1


def test_bands_end_at_a_quarter_and_half_of_the_side():
    def seen(cell):
        place = torch.arange(16) // cell
        return measure(torch.randn(1, 5, 7), None, (-1.0) ** (place[:, None] + place)[None, None], change(n=1, D=1))[0]

    assert seen(4).low > 0 and seen(2).low == 0
    assert seen(2).middle > 0 and seen(1).middle == 0 and seen(1).high > 0


@pytest.mark.parametrize("axis", [0, 1])
def test_stripes_of_one_position_are_of_the_high_band_along_both_sides(axis):
    place = torch.meshgrid(torch.arange(8), torch.arange(16), indexing="ij")[axis]
    stripes = ((-1.0) ** place)[None, None]
    seen = measure(torch.randn(1, 5, 7), None, stripes, torch.randn(1, 1, 8, 16))[0]
    assert seen.low == seen.middle == 0 < seen.high


def test_confidence_is_the_mean_over_tokens_of_the_likeliest_code_s_probability():
    shares, latent = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]]]), change(n=1)
    assert measure(shares.log(), None, latent, latent)[0].confidence == pytest.approx(0.7)


def test_an_equal_change_is_one_in_every_band():
    latent = change()
    seen = measure(torch.randn(2, 5, 7), torch.tensor([0.25, 0.5]), latent, latent)
    assert [s.flips for s in seen] == [0.25, 0.5]
    for s in (*seen, *measure(torch.randn(2, 5, 7), None, latent / 1e3, latent / 1e3)):
        assert (s.low, s.middle, s.high) == pytest.approx((1, 1, 1)), "however small"


def test_nothing_changes_in_a_latent_without_energy():
    seen = measure(torch.randn(1, 5, 7), None, torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))[0]
    assert (seen.low, seen.middle, seen.high) == (0, 0, 0)


def test_flips():
    guided, cond = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    guided[0, :, 1], cond[0, :, 1] = 1, 1
    cond[0, 0, 2] = 2
    assert flipped(guided, cond).tolist() == [0.25]


@pytest.mark.parametrize("family", ["infinity", "scenes"])
def test_an_online_decision_changes_one_image_only_and_only_later_scales(family):
    model, seen = tiny(family), []
    schedule = model.schedule()[:5]
    plan = Plan.uniform(5, guidance=2.0)

    def revise(image, plan, at, signals):
        seen.append((image, at.k, signals.flips))
        return plan.replace(range(at.k + 1, 5), branch="cond") if (image, at.k) == (1, 2) else plan

    condition = model.condition(model.encode_text(["a star", "a red ring"]))
    steps = list(run(model, condition, schedule, [plan, plan], [1, 2], revise=revise))
    assert [s.branch for s in steps[-1].plans[0]] == ["both"] * 5
    assert [s.branch for s in steps[-1].plans[1]] == ["both"] * 3 + ["cond"] * 2
    assert {(image, k) for image, k, _ in seen} == {(i, k) for i in range(2) for k in range(5)}
    assert [flips is None for image, _, flips in seen if image == 1] == [False] * 3 + [True] * 2
    alone = list(run(model, model.condition(model.encode_text(["a star"])), schedule, [plan], [1]))
    assert torch.allclose(steps[-1].latent[0], alone[-1].latent[0], atol=1e-5)


@pytest.mark.parametrize(
    ("text", "measured"),
    [("nova", set()), ("stagevar", {"bands", "support"}), ("nova+guidance_off(1)", set())],
)
def test_what_no_accelerator_asks_for_is_not_measured(text, measured, monkeypatch):
    found = set()

    def counted(name, usual):
        return lambda *given: (found.add(name), usual(*given))[1]

    for name in ("confidence", "bands", "support"):
        monkeypatch.setattr(f"stagevar.engine.plan.signals.{name}", counted(name, getattr(signals, name)))
    Pipeline(tiny("scenes"))("a star", seed=0, accelerator=text)
    assert found == measured


def test_the_past_cannot_be_revised():
    model = tiny("scenes")
    condition = model.condition(model.encode_text(["a star"]))
    with pytest.raises(OptionError, match="has run"):
        list(
            run(
                model,
                condition,
                model.schedule(),
                [Plan.uniform(5)],
                [0],
                revise=lambda image, plan, at, signals: plan.replace([0], temperature=0.5),
            )
        )


def test_a_map_that_a_plan_needs_too_late_is_named():
    model = tiny("scenes")
    condition = model.condition(model.encode_text(["a star"]))

    def revise(image, plan, at, signals):
        return plan.replace([3], tokens=Select(0.5)) if at.k == 2 else plan

    with pytest.raises(OptionError, match="beforehand"):
        list(run(model, condition, model.schedule(), [Plan.uniform(5)], [0], revise=revise))


def test_guidance_can_be_carried_by_a_decision_made_online():
    model, logits = tiny("scenes"), {}
    condition = model.condition(model.encode_text(["a star"]))
    plan = Plan.uniform(5, guidance=3.0, temperature=0.0)

    def last(carry):
        def revise(image, plan, at, signals):
            return plan.replace([3, 4], branch="cond", carry=carry) if at.k == 2 else plan

        def tap(name, k, tensor):
            logits[name, k] = tensor

        list(run(model, condition, model.schedule(), [plan], [0], revise=revise, tap=tap))
        return logits["logits", 3]

    assert not torch.allclose(last(0.7), last(0.0))
