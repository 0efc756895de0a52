"""Pictures of one call: which of them share a pass, and what a part takes along when plans part."""

import gc

import pytest
import torch

from stagevar.engine.grids.grid import Scale, scales
from stagevar.engine.grids.latent import contrast, resize
from stagevar.engine.grids.rows import gather, resize_rows
from stagevar.engine.loop.cache import KVCache
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select, highest, kept
from stagevar.families.tiny import tiny

PROMPTS = ["a red circle", "two yellow rings"]
PLAIN = Plan.uniform(5, guidance=2.0)


def drawn(model, plans, images=(0, 1), **options):
    """The last step; picture i has prompt and seed i."""
    condition = model.condition(model.encode_text([PROMPTS[i] for i in images]))
    return list(run(model, condition, model.schedule()[:5], plans, list(images), **options))[-1]


def test_a_smoothed_picture_and_one_of_codes_can_be_drawn_in_one_call():
    model, plans = tiny("switti"), [PLAIN, PLAIN.replace(range(5), smooth=0.5)]
    together = drawn(model, plans).latent
    for i in range(2):
        assert torch.allclose(together[i], drawn(model, plans[i : i + 1], (i,)).latent[0], atol=1e-3)


@pytest.mark.parametrize("branch", ["cond", "null"])
def test_a_branch_that_is_dropped_online_is_dropped_as_if_planned(branch):
    model, planned = tiny("scenes"), PLAIN.replace([2, 3, 4], branch=branch)
    found = drawn(model, [PLAIN] * 2, revise=lambda image, plan, at, signals: plan if at.k < 1 else planned)
    assert found.plans == (planned, planned)
    assert torch.equal(found.latent, drawn(model, [planned] * 2).latent)


def test_a_part_has_storage_for_the_rows_of_its_own_plan():
    """The rows of a scale that the other part leaves out are not among them."""
    model, stored = tiny("scenes"), []

    def tap(name, k, tensor):
        if (name, k) == ("attended.0", 3):
            stored.append(tensor.untyped_storage().nbytes() // (tensor[:, :, 0].numel() * tensor.itemsize))

    drawn(model, [PLAIN, PLAIN.replace([2], run="skip")], tap=tap)
    rows = [model.rows(at) for at in scales(model.schedule())]
    assert stored == [sum(rows[:4]), sum(rows[:4]) - rows[2]]


def test_the_last_scale_frees_the_history_of_every_layer():
    model, held = tiny("scenes"), []

    def tap(name, k, tensor):
        if (name, k) == ("logits", 3):
            caches = [each for each in gc.get_objects() if type(each) is KVCache]
            held.extend((each.length(layer), each.rows) for each in caches for layer in range(model.depth))

    drawn(model, [PLAIN.replace([4], run="skip")] * 2, tap=tap)
    assert held == [(0, 0)] * model.depth


def at_contrast(latent, at, share):
    """Positions of the highest contrast."""
    return highest(resize(contrast(latent), at.grid, "area").flatten(1), kept(share, at.tokens))


def test_forced_codes_are_taken_at_the_positions_that_run():
    model, seen = tiny("scenes"), {}
    codes = torch.randint(8, (2, 25))
    plan = PLAIN.replace([3], tokens=Select(0.4, restore_by="zero_code"))
    drawn(model, [plan] * 2, forced={3: codes}, tap=lambda name, k, x: seen.__setitem__((name, k), x))
    index = at_contrast(seen["latent", 2], Scale(model.schedule(), 3), 0.4)
    assert torch.equal(seen["codes", 3], torch.stack([codes[i, index[i]] for i in range(2)]))


def test_pictures_that_part_take_their_own_forced_codes():
    model, codes = tiny("scenes"), {}
    drawn(model, [PLAIN] * 2, tap=lambda name, k, x: codes.setdefault(k, x) if name == "codes" else None)
    plans = [PLAIN, PLAIN.replace([3], run="skip")]
    together = drawn(model, plans, forced=codes).latent
    alone = drawn(model, plans[1:], (1,), forced={k: each[1:] for k, each in codes.items()}).latent
    assert torch.allclose(together[1], alone[0], atol=1e-5)


def test_one_picture_may_carry_guidance_where_another_does_so_later():
    model, single = tiny("scenes"), PLAIN.replace([3, 4], branch="cond", carry=0.7, temperature=0.0)
    plans = [single.replace([3], carry=0.0), single]
    together = drawn(model, plans).latent
    assert torch.allclose(together[1], drawn(model, plans[1:], (1,)).latent[0], atol=1e-5)


@pytest.mark.parametrize("tokens", [None, Select(0.5, restore_by="zero_code")], ids=["all", "kept"])
def test_carried_guidance_is_the_difference_of_the_branches_at_the_positions_that_run(tokens):
    model, seen = tiny("scenes"), {}
    plan = Plan.uniform(5, guidance=3.0).replace([3, 4], branch="cond", carry=0.5).replace([3], tokens=tokens)
    drawn(model, [plan], (0,), tap=lambda name, k, x: seen.__setitem__((name, k), x))
    at, last = Scale(model.schedule(), 3), f"block.{model.depth - 1}"
    cond, null = seen[last, 2].chunk(2)
    difference = resize_rows(cond - null, model.schedule()[2], at.grid, "bilinear")
    if tokens is not None:
        difference = gather(difference, at_contrast(seen["latent", 2], at, 0.5))
    condition = model.condition(model.encode_text(PROMPTS[:1])).take([0])
    carried = seen[last, 3] + (3.0 - 1) * 0.5 * difference
    torch.testing.assert_close(seen["logits", 3], model.logits(carried, condition, at))


@pytest.mark.parametrize("family", ["scenes", "star", "hart"])
def test_an_image_that_leaves_frees_its_rows_and_the_others_do_not_notice(family):
    model, rows = tiny(family), []
    plain = Plan.uniform(5, guidance=2.0)
    condition = model.condition(model.encode_text(PROMPTS * 2))
    asked = dict.fromkeys(range(4), 0)

    def wanted(image):
        asked[image] += 1
        return image not in (0, 2) or asked[image] <= 2

    def tap(name, k, tensor):
        if name == "embed":
            rows.append(len(tensor))

    given = (model, condition, model.schedule()[:5], [plain] * 4, range(4))
    left, whole = list(run(*given, wanted=wanted, tap=tap)), list(run(*given))
    assert [step.images for step in left] == [(0, 1, 2, 3)] * 2 + [(1, 3)] * 3
    assert rows == [8, 8, 4, 4, 4] and left[-1].records[0].images == (1, 3)
    assert torch.allclose(left[-1].latent, whole[-1].latent[[1, 3]], atol=1e-4)
    assert asked == {0: 3, 1: 5, 2: 3, 3: 5}


def test_a_call_that_all_images_have_left_ends_without_work():
    model, ran = tiny("scenes"), []
    last = drawn(model, [PLAIN] * 2, wanted=lambda image: False, tap=lambda name, *_: ran.append(name))
    assert (last.scale, last.images, len(last.latent), last.records, ran) == (4, (), 0, (), [])


def test_an_image_leaves_between_passes_and_not_between_the_scales_of_one():
    model, seen = tiny("scenes"), []
    plan = PLAIN.replace([3], group=True)

    def wanted(image):
        seen.append(image)
        return image == 1 or len(seen) <= 6  # image 0 goes when it is first asked behind the pass of scales 2 and 3

    condition = model.condition(model.encode_text(PROMPTS))
    steps = list(run(model, condition, model.schedule()[:5], [plan] * 2, [0, 1], wanted=wanted))
    assert [step.images for step in steps] == [(0, 1)] * 4 + [(1,)]
    assert torch.allclose(steps[-1].latent[0], drawn(model, [plan], (1,)).latent[0], atol=1e-4)
