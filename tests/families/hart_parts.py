"""What the tests of hart share."""

import torch

from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.families.hart.residual import ResidualHead
from stagevar.families.tiny import randomize

PROMPTS = ["a cat", "two big red dogs on a sofa"]


def recorder():
    """A tap, and what it has been told."""
    seen = {}
    return lambda name, k, x: seen.__setitem__((name, k), x), seen


def draw(model, prompts=PROMPTS, seeds=(7, 8), negative=None, size=(None, None), tap=None, **fields):
    """Final latents of one run with codes drawn hard."""
    schedule = model.schedule(*size)
    plan = Plan.uniform(len(schedule), **({"guidance": 2.0} | fields))
    with torch.inference_mode():
        condition = model.condition(model.encode_text(prompts), negative)
        *_, last = run(model, condition, schedule, [plan] * len(prompts), seeds[: len(prompts)], tap=tap)
    return last.latent


def head(steps=5):
    made = ResidualHead(4, 16, 24, 2, steps)
    randomize(made, 2)
    return made
