"""Logits corrected by those of an earlier scale: against a twin, and as an axis of random plans."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stagevar.accelerators.ssg import FromPrior
from stagevar.engine.loop.run import run
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "star", "hart", "switti", "var")}
MODELS["switti-ar"] = tiny("switti", causal=True)
EXACT = {"hart": 1e-2}
"""How near a picture drawn alone comes to one of a batch, where that is not 1e-4."""

SCALES = 5
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]
PLAIN = Plan.uniform(SCALES, guidance=2.0, temperature=0.8)

families = pytest.mark.parametrize("family", list(MODELS))


@dataclass(frozen=True)
class NearestLess:
    """Less a share of what the nearest position of the earlier scale has."""

    share: float
    source: int | None = None

    def __call__(self, logits, earlier):
        found = logits.clone()
        for image, each in enumerate(found):
            for row in range(len(each)):
                place = row if earlier.index is None else int(earlier.index[image, row])
                each[row] -= self.share * earlier.logits[image, at_nearest(place, earlier.at, earlier.source)]
        return found


def at_nearest(place, at, source):
    y, x = divmod(place, at.grid[1])
    return y * source.grid[0] // at.grid[0] * source.grid[1] + x * source.grid[1] // at.grid[1]


def generate(family, plans, seeds=(1, 2, 3), first=0, **more):
    model = MODELS[family]
    condition = model.condition(model.encode_text([*"378"] if family == "var" else PROMPTS))
    rows = range(first, first + len(plans))
    condition = condition.take([*rows, *(row + 3 for row in rows)])
    return list(run(model, condition, model.schedule()[:SCALES], plans, seeds[: len(plans)], **more))


@families
@pytest.mark.parametrize("source", [None, 1])
def test_corrected_logits_equal_their_twin(family, source):
    """The same codes are taken in both runs, so that scales differ by their own correction alone."""
    model, seen, codes = MODELS[family], [{}, {}], {}
    generate(family, [PLAIN], tap=lambda name, k, x: codes.__setitem__(k, x) if name == "codes" else None)
    index = Select(0.5, restore_by="zero_code")
    plain = PLAIN.replace([4], tokens=index)
    plans = plain, plain.replace([2, 3, 4], correct=NearestLess(0.5, source))
    for plan, found in zip(plans, seen, strict=True):

        def tap(name, k, x, found=found):
            found[name, k] = x.clone()

        generate(family, [plan], forced=codes, tap=tap)
    schedule = model.schedule()[:SCALES]
    for k in range(SCALES):
        want = seen[0]["logits", k].flatten(2).clone()
        if k >= 2:
            j = k - 1 if source is None else source
            earlier = seen[0]["logits", j].flatten(2)
            size, small = schedule[k], schedule[j]
            for row in range(want.shape[1]):
                place = row if k < 4 else int(seen_index(model, plain, seen[0], k)[row])
                y, x = divmod(place, size[1])
                want[0, row] -= 0.5 * earlier[0, y * small[0] // size[0] * small[1] + x * small[1] // size[1]]
        torch.testing.assert_close(seen[1]["logits", k].flatten(2), want)


def seen_index(model, plan, seen, k):
    """Positions of the rows that a scale keeps to the end."""
    grid, latent = model.schedule()[k], seen["latent", k - 1]
    context = TokenContext(k, grid, 0, 1, None, [0], latent, latent - seen["begin", k - 1], Memory())
    return plan[k].tokens.reduce(torch.zeros(1, grid[0] * grid[1], 1), context).index[0]


@families
def test_a_correction_of_nothing_is_the_plain_run(family):
    plain = generate(family, [PLAIN] * 2)[-1].latent
    zero = PLAIN.replace(range(1, SCALES), correct=FromPrior(0.0))
    assert torch.equal(plain, generate(family, [zero] * 2)[-1].latent)


@families
def test_logits_of_other_scales_change_the_picture_and_are_freed(family):
    memories = []
    plan = PLAIN.replace([2], correct=FromPrior(1.0))

    class Watching(FromPrior):
        def __call__(self, logits, earlier):
            memories.append(earlier.logits.shape[1])
            return super().__call__(logits, earlier)

    watched = PLAIN.replace([2], correct=Watching(1.0))
    found = [generate(family, [each])[-1].latent for each in (PLAIN, plan, watched)]
    assert not torch.allclose(found[0], found[1], atol=1e-3) and torch.equal(*found[1:])
    h, w = MODELS[family].schedule()[1]
    assert memories == [h * w]


def test_corrections_need_logits_of_all_positions_and_codes_that_mean_the_same():
    with pytest.raises(OptionError, match="scale 0 cannot be corrected"):
        PLAIN.replace([0], correct=FromPrior(0.5))
    with pytest.raises(OptionError, match="scale 3 reads the logits of scale 2, whose rows stayed reduced"):
        PLAIN.replace([2], tokens=Select(0.5, restore_by="zero_code")).replace([3], correct=FromPrior(0.5))
    with pytest.raises(OptionError, match="does not run before"):
        PLAIN.replace([2], run="skip").replace([3], correct=FromPrior(0.5, source=2))
    with pytest.raises(OptionError, match="correct must be None or a correction"):
        PLAIN.replace([2], correct=0.5)
    scenes = tiny("scenes")
    condition = scenes.condition(scenes.encode_text(["a red circle"]))
    with pytest.raises(OptionError, match="codes of its own at each scale"):
        list(run(scenes, condition, scenes.schedule(), [PLAIN.replace([3], correct=FromPrior(0.5))], [0]))


corrections = st.sampled_from((None, FromPrior(0.5), FromPrior(-0.4, source=1), FromPrior(2.0)))
rows = st.sampled_from(({}, {"tokens": Select(0.5, restore_by="nearest")}, {"parts": (PartRows(0.5),)}))


@families
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    each=st.tuples(corrections, corrections, corrections),
    more=rows,
    single=st.sampled_from((None, "cond", "null")),
    skipped=st.booleans(),
)
def test_pictures_do_not_depend_on_their_batch(family, each, more, single, skipped):
    plan = PLAIN.replace([3, 4], branch=single or "both")
    for k, rule in zip((2, 3, 4), each, strict=True):
        plan = plan.replace([k], correct=rule)
    plan = plan.replace([3], **({"run": "reuse"} if skipped else more))
    plans = [plan, PLAIN, plan]
    together = generate(family, plans)[-1].latent
    for i in (0, 2):
        alone = generate(family, plans[:1], seeds=(i + 1,), first=i)[-1].latent
        assert torch.allclose(together[i], alone[0], atol=EXACT.get(family, 1e-4))
