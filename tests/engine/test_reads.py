"""Maps that scales read of earlier ones: every read has a writer, and a map goes behind its last reader."""

import pytest

from stagevar.engine.grids.rows import resize_rows
from stagevar.engine.loop.run import run
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan, ScalePlan
from stagevar.engine.plan.select import Select, kept
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "hart")}
SCALES = 5

families = pytest.mark.parametrize("family", list(MODELS))


def generate(family, plans, tap=None):
    model = MODELS[family]
    condition = model.condition(model.encode_text(["a red circle"]))
    return list(run(model, condition, model.schedule()[:SCALES], plans, [1], tap=tap))


def reduced(tokens, scales):
    return Plan.uniform(SCALES, guidance=2.0, temperature=0.8).replace(scales, tokens=tokens)


@pytest.mark.parametrize(
    ("scales", "what"),
    [
        ([Select(0.5, source=3)], "scale 3 reads maps of scale 3, which does not run before it"),
        ([Select(0.5, source=-1)], "scale 3 reads maps of scale -1"),
        ([Select(0.5, source=1), Select(0.5, scope="group", source=1)], "other groups of blocks"),
        ([Select(0.4, restore_by="zero_code"), Select(0.5, source=3)], "grouped alike"),
    ],
)
def test_every_map_that_is_read_is_written(scales, what):
    tokens = (None, None, None, *scales)
    with pytest.raises(OptionError, match=what):
        Plan(tuple(ScalePlan(tokens=each) for each in tokens))


def test_a_scale_that_is_left_out_writes_no_maps():
    plan = Plan.uniform(5).replace([3], tokens=Select(0.5, source=1))
    with pytest.raises(OptionError, match="scale 3 reads maps of scale 1, which does not run"):
        plan.replace([1], run="skip")


@families
def test_maps_of_any_earlier_scale_are_kept_until_their_last_reader(family, monkeypatch):
    """Two scales read the same map, the second one past a scale that reads nothing."""
    held, keep_only = [], Memory.keep_only

    def noted(self, read):
        keep_only(self, read)
        held.append({(kind, scale) for kind, _, scale in self._maps})

    monkeypatch.setattr(Memory, "keep_only", noted)
    plan = reduced(Select(0.5, restore_by="hidden", source=1), scales=(2, 4))
    generate(family, [plan])
    assert held == [set(), {("hidden", 1)}, {("hidden", 1)}, {("hidden", 1)}, set()]


@families
def test_rows_are_restored_by_the_map_of_the_scale_that_was_named(family):
    seen = {}
    plan = reduced(Select(0.5, restore_by="hidden", source=1), scales=(4,))
    generate(family, [plan], tap=lambda name, k, x: seen.__setitem__((name, k), x))
    grids = MODELS[family].schedule()
    last = seen[f"block.{MODELS[family].depth - 1}", 1][:, -grids[1][0] * grids[1][1] :]
    restored, map_ = seen["group.0", 4], resize_rows(last, grids[1], grids[4], "bilinear")
    same = (restored == map_).all(-1).sum(1)
    assert same.tolist() == [restored.shape[1] - kept(0.5, restored.shape[1])] * 2


@families
def test_memory_holds_only_what_the_next_scales_need(family, monkeypatch):
    held = []
    keep_only = Memory.keep_only

    def noted(self, kinds):
        keep_only(self, kinds)
        held.append({(kind, scale) for kind, _, scale in self._maps})

    monkeypatch.setattr(Memory, "keep_only", noted)
    plan = Plan.uniform(SCALES, guidance=2.0).replace([2], tokens=Select(0.5)).replace([4], branch="cond", carry=0.5)
    generate(family, [plan])
    assert held == [set(), {("increment", 1)}, set(), {("guidance", 3)}, set()]
