"""How much the codes of each token count: against a twin, and as an axis of random plans."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stagevar.accelerators.depthvar import ByDepth, Turned
from stagevar.accelerators.sparsevar import Anchored, Moving
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.parts import PartRows
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "star", "hart", "switti", "var")}
MODELS["switti-ar"] = tiny("switti", causal=True)
EXACT = {"hart": 1e-2}
"""How near a picture drawn alone comes to one of a batch, where that is not 1e-4."""

SCALES = 5
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]
PLAIN = Plan.uniform(SCALES, guidance=2.0, temperature=0.8)

families = pytest.mark.parametrize("family", list(MODELS))


@dataclass(frozen=True)
class Checkered:
    """Every other token counts in full, the others by ``rest``."""

    rest: float
    needs: tuple = ()
    source: int | None = None

    def __call__(self, context):
        place = torch.arange(context.grid[0] * context.grid[1])
        gain = torch.where(place % 2 == 0, 1.0, self.rest)
        return gain.expand(len(context.latent), -1)


def generate(family, plans, seeds=(1, 2, 3), first=0, schedule=None, **more):
    model = MODELS[family]
    condition = model.condition(model.encode_text([*"378"] if family == "var" else PROMPTS))
    rows = range(first, first + len(plans))
    condition = condition.take([*rows, *(row + 3 for row in rows)])
    schedule = schedule or model.schedule()[:SCALES]
    return list(run(model, condition, schedule, plans, seeds[: len(plans)], **more))


@families
@pytest.mark.parametrize("final", [False, True])
def test_codes_that_do_not_count_are_codes_that_are_not_there(family, final):
    """A gain of 0 is the index form of ``add_codes``, by the positions that remain."""
    model, seen = MODELS[family], {}
    tokens = Select(0.6, restore_by="zero_code") if final else None
    plan = PLAIN.replace([3], gain=Checkered(0.0), tokens=tokens)
    generate(family, [plan], tap=lambda name, k, x: seen.__setitem__((name, k), x.clone()))
    at, schedule = Scale(model.schedule()[:SCALES], 3), model.schedule()[:SCALES]
    index = tokens_index(plan, seen, at.grid) if final else torch.arange(at.tokens)[None]
    kept = index[0] % 2 == 0
    want = model.add_codes(seen["begin", 3], seen["codes", 3][:, kept], schedule, 3, index[:, kept])
    torch.testing.assert_close(seen["latent", 3], want)


def tokens_index(plan, seen, grid):
    """Positions of the rows that scale 3 keeps to the end."""
    latent = seen["latent", 2]
    context = TokenContext(3, grid, 0, 1, None, [0], latent, latent - seen["begin", 2], Memory())
    return plan[3].tokens.reduce(torch.zeros(1, grid[0] * grid[1], 1), context).index


@families
def test_a_gain_multiplies_the_vectors_of_codes(family):
    """What is added is affine in the gain: half-way between none and all."""
    latents = []
    for rest in (0.0, 0.5, 1.0):
        plan = PLAIN.replace([3], gain=Checkered(rest))
        latents.append(generate(family, [plan])[3].latent)
    torch.testing.assert_close(latents[1], (latents[0] + latents[2]) / 2, atol=1e-4, rtol=1e-3)
    plain = generate(family, [PLAIN])[3].latent
    assert torch.equal(latents[2], plain) and not torch.allclose(latents[0], plain, atol=1e-3)


def test_a_residual_counts_like_the_codes():
    model = MODELS["hart"]
    schedule, seen = model.schedule(), {}
    last = len(schedule) - 1
    plan = Plan.uniform(len(schedule), guidance=2.0).replace([last], gain=Checkered(0.0))
    generate("hart", [plan], schedule=schedule, tap=lambda name, k, x: seen.__setitem__((name, k), x.clone()))
    gain = Checkered(0.0)(type("Context", (), {"grid": schedule[last], "latent": [0]})).view(schedule[last])
    codes = model.add_codes(seen["begin", last], seen["codes", last], schedule, last, None, gain.view(1, -1))
    torch.testing.assert_close(seen["latent", last], codes + seen["residual", last])
    assert (seen["residual", last][..., gain == 0] == 0).all() and seen["residual", last].abs().amax() > 0


def test_gains_need_what_they_read():
    order = Turned()
    with pytest.raises(OptionError, match="scale 0 cannot weigh codes"):
        PLAIN.replace([0], gain=ByDepth(order, (0.5,)))
    with pytest.raises(OptionError, match="does not watch"):
        PLAIN.replace([3], gain=ByDepth(order, (0.5,)))
    with pytest.raises(OptionError, match="gain must be None or a rule"):
        PLAIN.replace([3], gain=0.5)


SPARSE = Anchored(0.3, Moving(), 2, 0.5, 2)
gains = st.sampled_from((None, SPARSE, Checkered(0.0), Checkered(0.3), ByDepth(Turned(turn=0.3), (0.2, 0.6), source=2)))
rows = st.sampled_from(
    (
        {},
        {"run": "reuse"},
        {"tokens": Select(0.5, restore_by="nearest")},
        {"tokens": Select(0.5, restore_by="zero_code")},
        {"tokens": SPARSE, "gain": SPARSE},
        {"parts": (PartRows(0.5, score=Turned(turn=0.3), source=2, score_source=2),)},
    )
)


@families
@settings(max_examples=6, deadline=None, derandomize=True)
@given(each=st.tuples(gains, gains), more=st.tuples(rows, rows), single=st.booleans())
def test_pictures_do_not_depend_on_their_batch(family, each, more, single):
    plan = PLAIN.replace([2], watch=(Turned(turn=0.3), Moving()))
    plan = (
        plan.replace([3], **{"gain": each[0], **more[0]}) if "tokens" not in more[0] or "run" not in more[1] else plan
    )
    plan = plan.replace([4], branch="cond" if single else "both", **{"gain": each[1], **more[1]})
    plans = [plan, PLAIN, plan]
    together = generate(family, plans)[-1].latent
    for i in (0, 2):
        alone = generate(family, plans[:1], seeds=(i + 1,), first=i)[-1].latent
        assert torch.allclose(together[i], alone[0], atol=EXACT.get(family, 1e-4))
