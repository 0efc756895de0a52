"""SparseVAR: which tokens run, copy or add nothing, against a twin, and what is decided per picture."""

import numpy as np
import pytest
import torch

from stagevar.accelerators.base import Facts
from stagevar.accelerators.sparsevar import Anchored, Moving, SparseVAR, anchor_places, nearest_anchors
from stagevar.engine.grids.grid import Scale
from stagevar.engine.loop.run import run
from stagevar.engine.plan.memory import LAST, Memory
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import CHANGING
from stagevar.engine.plan.tokens import TokenContext
from stagevar.engine.plan.watch import Seen
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.registry import parse

GRID, M = (5, 6), 30
ORDER = Moving()


def seen(seed=0, images=2):
    """A context whose source, on the same grid, has watched random changes and given random logits."""
    generator, memory = torch.Generator().manual_seed(seed), Memory()
    memory.put("watched", ORDER, 1, torch.rand(images, M, 1, generator=generator), GRID)
    memory.put("logits", LAST, 1, torch.randn(images, M, 3, generator=generator), GRID)
    latent = torch.zeros(images, 1, *GRID)
    return TokenContext(2, GRID, 0, 1, None, [0] * images, latent, latent, memory, 1)


def twin(tokens, context):
    """Per image, what each token does: True to run, an anchor to copy, or None."""
    changes = context.memory.get("watched", ORDER, 1, GRID)[..., 0].double().numpy()
    logits = context.memory.get("logits", LAST, 1, GRID).double().numpy()
    anchors = [
        y * GRID[1] + x
        for y in range(GRID[0])
        for x in range(GRID[1])
        if (y % tokens.every == 0 or y == GRID[0] - 1) and (x % tokens.every == 0 or x == GRID[1] - 1)
    ]
    found = []
    for change, logit in zip(changes, logits, strict=True):
        others = sorted(set(range(M)) - set(anchors), key=lambda place: -change[place])
        runs = {*anchors, *others[: int(tokens.keep * M)]}
        does = []
        for place in range(M):
            y, x = divmod(place, GRID[1])
            near = sorted(anchors, key=lambda a: ((y - a // GRID[1]) ** 2 + (x - a % GRID[1]) ** 2, a))[:4]
            likeness = [logit[place] @ logit[a] / np.linalg.norm(logit[place]) / np.linalg.norm(logit[a]) for a in near]
            best = int(np.argmax(likeness))
            does.append(True if place in runs else near[best] if likeness[best] > tokens.alike else None)
        found.append(does)
    return found


@pytest.mark.parametrize(("every", "alike"), [(2, 0.5), (4, 0.8), (3, -1.0)])
def test_tokens_run_copy_an_anchor_or_stay_as_their_twin_says(every, alike):
    tokens, context = Anchored(0.2, ORDER, every, alike, 1), seen()
    x = torch.randn(4, M, 3, generator=torch.Generator().manual_seed(1))
    reduced = tokens.reduce(x, context)
    restored = tokens.restore(x, reduced.x + 100, reduced, context)
    gain = tokens(context)
    want = twin(tokens, context)
    assert {None} < {each if each is None else type(each) for does in want for each in does} or alike < 0
    for row in range(4):
        for place, does in enumerate(want[row % 2]):
            taken = x[row, place] if does is None else x[row, place if does is True else does] + 100
            assert torch.equal(restored[row, place], taken)
            assert gain[row % 2, place] == (does is not None)


def test_anchors_are_those_of_the_port():
    counts = [len(anchor_places((side, side), 4, torch.device("cpu"))) for side in (40, 48, 64)]
    assert counts == [121, 169, 289]
    assert anchor_places((1, 3), 4, torch.device("cpu")).tolist() == [0, 2]
    assert nearest_anchors((1, 3), 4, torch.device("cpu")).tolist() == [[0, 2], [0, 2], [2, 0]]


def test_the_number_is_the_share_of_tokens_above_the_threshold():
    changes = torch.tensor([[1.0, 0.7, 0.6, 0.1], [0.0, 0.0, 0.0, 0.0]])
    at = Scale(((2, 2),), 0)
    numbers = Moving().numbers(Seen(at, changes, changes, changes, lambda x: x, lambda schedule: (1, 1)))
    assert numbers.tolist() == [[0.5], [0.0]]


SCHEDULE = tuple((side, side) for side in (1, 4, 8, 10, 16))
FACTS = Facts(8, 1, True)


def decided(share, **more):
    accelerator = SparseVAR(**more)
    plan = accelerator.plan(Plan.uniform(5, guidance=2.0), SCHEDULE, FACTS)
    signals = CHANGING.__class__(1.0, 0.0, 0.0, 0.0, 0.0, CHANGING.support, {plan[2].watch[0]: (share,)})
    return plan, accelerator.revise(plan, Scale(SCHEDULE, 2), signals)


def test_the_share_is_decided_once_behind_the_last_whole_scale():
    plan, found = decided(0.3)
    assert [bool(each.watch) for each in plan] == [False, False, True, False, False]
    assert (
        not any(each.tokens for each in plan)
        and [each.tokens and each.tokens.keep for each in found][3:] == [0.375] * 2
    )
    assert found[3].gain == found[3].tokens and found[4].tokens.source == 2
    assert decided(0.0)[1][4].tokens.keep == 0.125 and decided(0.9)[1][4].tokens is None
    assert SparseVAR().revise(found, Scale(SCHEDULE, 3), CHANGING) == found


def test_pictures_of_a_batch_decide_alone_and_share_passes():
    model = tiny("infinity")
    pipe, shares = Pipeline(model), set()
    together = pipe(
        ["a star", "two yellow rings", "a red circle"],
        seed=3,
        output_type="latent",
        accelerator="sparsevar(threshold=0.95)",
    )
    for number, prompt in enumerate(("a star", "two yellow rings", "a red circle")):
        alone = pipe(prompt, seed=3, output_type="latent", accelerator="sparsevar(threshold=0.95)")
        assert torch.allclose(alone.images[0], together.images[number], atol=1e-4)
        shares.add(alone.trace.records[-1].rows)
    assert len(shares) > 1


def test_no_scale_before_the_share_is_refused():
    with pytest.raises(OptionError, match="no scale that runs all tokens"):
        SparseVAR(first=0.0).plan(Plan.uniform(5), SCHEDULE, FACTS)


def test_rows_that_run_are_cached_and_no_others():
    model, lengths = tiny("infinity"), {}
    schedule = model.schedule()
    tokens = Anchored(0.25, ORDER, 4, 0.8, 2)
    plan = Plan.uniform(len(schedule), guidance=2.0).replace([2], watch=(ORDER,)).replace([3], tokens=tokens)
    condition = model.condition(model.encode_text(["a red star"]))

    def tap(name, k, x):
        if name == "attended.0":
            lengths[k] = x.shape[2]

    list(run(model, condition, schedule, [plan], [3], tap=tap))
    h, w = schedule[3]
    anchors = len(anchor_places((h, w), 4, torch.device("cpu")))
    assert lengths[3] - lengths[2] == min(h * w, anchors + h * w // 4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("sparsevar(first=1.5)", "first"),
        ("sparsevar(threshold=-0.1)", "threshold"),
        ("sparsevar(alike=2.0)", "alike"),
        ("sparsevar(every=0)", "every"),
        ("sparsevar(layers=(0.5, 0.5))", "layers"),
        ("sparsevar+stepvar", "both decide the axis 'tokens'"),
        ("sparsevar+depthvar", "both decide the axis 'gain'"),
    ],
)
def test_settings_out_of_range_are_refused(text, word):
    with pytest.raises(OptionError, match=word):
        parse(text)
