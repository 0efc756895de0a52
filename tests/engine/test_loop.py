"""The invariants of the loop, over random plans on tiny random networks of two families."""

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.errors import Cancelled, NumericError, OptionError
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "hart")}
MODELS["hart"].refined = False  # the residual has tests of its own, as it enlarges rounding 20000 times

PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]
SIZES = {"infinity": [(256, 256), (320, 192)], "scenes": [(None, None)]}


def schedule_of(family):
    model = MODELS[family]
    return model.schedule()[:5] if family == "infinity" else model.schedule()


def generate(family, prompts, plans, seeds, **options):
    """Codes per scale and image, final latent, records."""
    model, codes = MODELS[family], {}
    schedule = options.pop("schedule", None) or schedule_of(family)

    def tap(name, k, tensor):
        if name == "codes":
            codes.setdefault(k, []).append(tensor)

    condition = model.condition(model.encode_text(prompts), options.pop("negative", None))
    steps = list(run(model, condition, schedule, plans, seeds, tap=tap, **options))
    records = [record for step in steps for record in step.records]
    return codes, steps[-1].latent, records


def plan_strategy(scales):
    floats = st.floats(0.3, 4.0)

    @st.composite
    def plans(draw):
        runs = draw(st.lists(st.sampled_from(["full", "full", "skip"]), min_size=scales, max_size=scales))
        runs[draw(st.integers(0, scales - 1))] = "full"
        single_from, single = draw(st.integers(0, scales)), draw(st.sampled_from(["cond", "null"]))
        return Plan(
            tuple(
                ScalePlan(
                    run=runs[k],
                    branch=single if k >= single_from else "both",
                    guidance=draw(floats),
                    temperature=draw(st.sampled_from([0.0, 0.5, 1.0])),
                    top_k=draw(st.sampled_from([0, 1, 3])),
                    top_p=draw(st.sampled_from([1.0, 0.9])),
                )
                for k in range(scales)
            )
        )

    return plans()


families = pytest.mark.parametrize("family", list(MODELS))
checked = settings(max_examples=25, deadline=None, derandomize=True)


@families
@checked
@given(data=st.data())
def test_an_image_does_not_depend_on_its_batch(family, data):
    scales = len(schedule_of(family))
    count = data.draw(st.integers(2, 3))
    plans = [data.draw(plan_strategy(scales)) for _ in range(count)]
    seeds = [data.draw(st.integers(0, 2**32)) for _ in range(count)]
    _, together, _ = generate(family, PROMPTS[:count], plans, seeds)
    alone = [generate(family, [PROMPTS[i]], [plans[i]], [seeds[i]])[1] for i in range(count)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


@families
@checked
@given(data=st.data())
def test_a_repeated_call_is_bit_identical(family, data):
    plan = data.draw(plan_strategy(len(schedule_of(family))))
    first, second = (generate(family, PROMPTS[:2], [plan, plan], [3, 4]) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert [(r.scale, r.images, r.rows) for r in first[2]] == [(r.scale, r.images, r.rows) for r in second[2]]


@families
@checked
@given(data=st.data())
def test_the_record_tells_what_ran(family, data):
    schedule = schedule_of(family)
    plan = data.draw(plan_strategy(len(schedule)))
    _, _, records = generate(family, PROMPTS[:1], [plan], [0])
    cached = 0
    for k, record in enumerate(records):
        tokens = MODELS[family].rows(Scale(schedule, k))
        ran = plan[k].run == "full"
        assert record.scale == k and record.run == plan[k].run
        assert record.rows == ran * tokens * (2 if record.branch == "both" else 1)
        assert record.branch == plan[k].branch
        assert not ran or record.cached == cached
        cached += tokens * ran


@families
@pytest.mark.parametrize(("branch", "guidance"), [("cond", 1.0), ("null", 0.0)])
def test_a_single_branch_equals_its_guidance_weight(family, branch, guidance):
    scales = len(schedule_of(family))
    single = generate(family, PROMPTS, [Plan.uniform(scales, branch=branch)] * 3, [1, 2, 3])
    guided = generate(family, PROMPTS, [Plan.uniform(scales, guidance=guidance)] * 3, [1, 2, 3])
    for k in range(scales):
        assert torch.equal(single[0][k][0], guided[0][k][0])


@families
def test_guidance_and_seed_and_prompt_change_the_picture(family):
    scales = len(schedule_of(family))
    plain = generate(family, PROMPTS[:1], [Plan.uniform(scales, guidance=3.0)], [1])[1]
    others = [
        generate(family, PROMPTS[:1], [Plan.uniform(scales, guidance=1.0)], [1])[1],
        generate(family, PROMPTS[:1], [Plan.uniform(scales, guidance=3.0)], [2])[1],
        generate(family, PROMPTS[1:2], [Plan.uniform(scales, guidance=3.0)], [1])[1],
    ]
    assert not any(torch.equal(plain, other) for other in others)


@families
def test_noise_is_shared_between_plans(family):
    """Skipping a late scale leaves every draw before it as it was."""
    scales = len(schedule_of(family))
    full = generate(family, PROMPTS[:1], [Plan.uniform(scales)], [5])
    short = generate(family, PROMPTS[:1], [Plan.uniform(scales).replace([-1], run="skip")], [5])
    for k in range(scales - 1):
        assert torch.equal(full[0][k][0], short[0][k][0])
    assert scales - 1 not in short[0]


@families
def test_forced_codes_are_taken(family):
    scales = len(schedule_of(family))
    plan = Plan.uniform(scales)
    first = generate(family, PROMPTS[:2], [plan, plan], [1, 2])
    forced = {k: parts[0] for k, parts in first[0].items()}
    again = generate(family, PROMPTS[:2], [plan, plan], [8, 9], forced=forced)
    assert torch.equal(first[1], again[1])


@families
def test_dropping_a_branch_frees_its_rows_at_once(family):
    scales = len(schedule_of(family))
    plan = Plan.uniform(scales).replace([-1, -2], branch="cond")
    _, _, records = generate(family, PROMPTS[:2], [plan, plan], [1, 2])
    tokens = [MODELS[family].rows(Scale(schedule_of(family), k)) for k in range(scales)]
    assert [r.rows // t for r, t in zip(records, tokens, strict=True)] == [4] * (scales - 2) + [2, 2]


def test_mid_layer_guidance_runs_and_differs_from_logit_guidance():
    scales = len(schedule_of("infinity"))
    logits = generate("infinity", PROMPTS[:1], [Plan.uniform(scales, guidance=3.0)], [1])[1]
    hidden = generate("infinity", PROMPTS[:1], [Plan.uniform(scales, guidance=3.0, guidance_layer=-2)], [1])[1]
    assert not torch.equal(logits, hidden)


@pytest.mark.parametrize("layer", [4, -5])
def test_a_guidance_layer_that_does_not_exist_is_refused(layer):
    plan = Plan.uniform(5, guidance_layer=layer)
    with pytest.raises(OptionError, match="4 blocks"):
        generate("infinity", PROMPTS[:1], [plan], [1])


@families
def test_no_tensor_of_a_call_survives_it(family):
    scales = len(schedule_of(family))

    def alive():
        gc.collect()
        return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))

    generate(family, PROMPTS[:1], [Plan.uniform(scales)], [1])
    before = alive()
    generate(family, PROMPTS, [Plan.uniform(scales)] * 3, [1, 2, 3])
    assert alive() == before


@families
def test_cancellation_between_scales(family):
    asked = iter([False, False, True])
    with pytest.raises(Cancelled, match="scale 2"):
        generate(
            family,
            PROMPTS[:1],
            [Plan.uniform(len(schedule_of(family)))],
            [1],
            cancelled=lambda: next(asked),
        )


@families
def test_not_a_number_in_the_logits_is_an_error(family):
    model = MODELS[family]
    condition = model.condition(model.encode_text(PROMPTS[:1]))
    condition.start[0, 0] = torch.nan
    with pytest.raises(NumericError, match="scale 0"):
        list(run(model, condition, schedule_of(family), [Plan.uniform(len(schedule_of(family)))], [0]))


@families
def test_a_plan_of_another_length_is_refused(family):
    with pytest.raises(OptionError, match="2 scales"):
        generate(family, PROMPTS[:1], [Plan.uniform(2)], [0])


@families
def test_bfloat16_blocks_run_and_stay_close(family):
    model = tiny(family)
    model.blocks.to(torch.bfloat16)
    schedule, seen = schedule_of(family), {}
    for each in (MODELS[family], model):
        condition = each.condition(each.encode_text(PROMPTS[:1]))

        def tap(name, k, tensor, each=each):
            if (name, k) == ("logits", 0):
                seen[each] = tensor

        list(run(each, condition, schedule, [Plan.uniform(len(schedule))], [0], tap=tap))
    assert seen[model].dtype == torch.float32
    assert torch.allclose(seen[model], seen[MODELS[family]], atol=0.2)
