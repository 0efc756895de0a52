"""StageVAR as published: ranks, plans, and random mixtures of rows."""

from dataclasses import dataclass, field

import pytest
import torch

from stagevar.accelerators.base import Facts
from stagevar.accelerators.sketch import SeededDraws, Sketch
from stagevar.accelerators.stagevar_official import MEAN_RANKS, RANKS_96, StageVARPaper, StageVARReleased, ranks
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import MissingFileError, OptionError
from stagevar.families.infinity.grids import SCHEDULES
from stagevar.profile import Boundary, Ranks, Rule, StageProfile
from stagevar.registry import parse


def context(images=1, rope=None):
    latent = torch.zeros(images, 5, 3, 4)
    return TokenContext(3, (3, 4), 0, 1, rope, list(range(images)), latent, latent, Memory())


def test_official_ranks_of_the_default_energy():
    """The ranks of Infinity-2B at 40x40, 48x48 and 64x64 tokens."""
    expected = {
        3: (1600, [27, 219, 337, 401, 410, 317, 252, 306]),
        2: (2304, [31, 271, 437, 512, 541, 422, 309, 376]),
        1: (4096, [34, 223, 341, 273, 233, 122, 157, 228]),
    }
    for from_end, (tokens, want) in expected.items():
        assert [int(ratio * tokens) + 1 for ratio in ranks(0.96, from_end, 8)] == want


def test_ranks_grow_with_the_energy_where_the_official_table_does():
    means = [sum(ranks(alpha, 3, 8)) for alpha in sorted(MEAN_RANKS)]
    assert means == sorted(means)
    assert len(ranks(0.96, 1, 30)) == 30


def test_a_model_with_other_groups_takes_the_chunk_at_the_middle_of_each():
    last = RANKS_96[-1]
    assert ranks(0.96, 1, 3) == (last[1], last[4], last[6])
    assert ranks(0.96, 1, 16) == tuple(rank for rank in last for _ in range(2))


def test_scales_before_the_third_last_take_its_ranks():
    assert ranks(0.9, 9, 8) == ranks(0.9, 3, 8) != ranks(0.9, 2, 8)


def test_released_runs_what_the_official_repository_runs():
    schedule = SCHEDULES[64, 64]
    plan = StageVARReleased().plan(Plan.uniform(13, guidance=3.0), schedule, Facts(32, 8, True))
    assert plan.executed == tuple(range(11))
    assert [s.branch for s in plan] == ["both"] * 10 + ["null"] * 3
    assert [s.tokens is not None for s in plan] == [False] * 10 + [True] + [False] * 2


def test_calibrated_ranks_and_boundaries_take_the_place_of_the_tables(tmp_path):
    boundary = Boundary(Rule(("layout",), 0.9), 3, 0.5, 0.5, 0.0, 0.5, 0.5)
    table = tuple(Ranks(share, (share / 4, share / 2), (0.0, 0.0)) for share in (0.25, 0.5, 1.0))
    path, schedule = tmp_path / "profile.json", ((1, 1), (2, 2), (4, 4), (6, 6), (8, 8))
    StageProfile("m", "f", {}, schedule, 1, 1, 0, (1.0,), boundary, boundary, {0.96: table}).save(path)
    facts, plain = Facts(depth=4, groups=2, causal=True), Plan.uniform(5, guidance=2.0)
    plan = parse(f"stagevar_paper(profile={str(path)!r})").plan(plain, schedule, facts)
    assert [s.stage for s in plan] == [None] * 3 + ["fidelity"] * 2
    assert plan[3].tokens.ratios == pytest.approx((0.1875, 0.375)) and plan[4].tokens.ratios == (0.25, 0.5)
    released = parse(f"stagevar_released(profile={str(path)!r}, skip=0, single=2, rotary='drawn')")
    plan = released.plan(plain, schedule, facts)
    assert plan[4].tokens == Sketch((0.25, 0.5), rotary="drawn") and plan[3].tokens is None
    assert plan[3].branch == "null" and plan.executed == (0, 1, 2, 3, 4)
    with pytest.raises(OptionError, match="2 groups"):
        released.plan(plain, schedule, Facts(depth=8, groups=8, causal=True))
    with pytest.raises(OptionError, match="of model 'm', not of 'other'; measure one"):
        released.plan(plain, schedule, Facts(depth=4, groups=2, causal=True, model="other"))
    with pytest.raises(MissingFileError, match=r"none\.json"):
        parse("stagevar_paper(profile='none.json')").plan(plain, schedule, facts)


def test_mixtures_stand_at_the_first_positions_or_at_the_drawn_ones():
    x, rope = torch.randn(1, 12, 4), torch.randn(12, 2, 2)
    first, drawn = (Sketch((0.3,), rotary=rotary).reduce(x, context(rope=rope)) for rotary in ("first", "drawn"))
    assert torch.equal(first.rope[0], rope[:4]) and torch.equal(drawn.rope[0], rope[drawn.index[0]])
    assert torch.equal(first.index, drawn.index) and torch.equal(first.x, drawn.x)


def test_the_paper_runs_the_null_branch_on_mixtures_in_every_fidelity_scale():
    plan = StageVARPaper().plan(Plan.uniform(13, guidance=3.0), SCHEDULES[64, 64], Facts(32, 8, True))
    assert [s.branch for s in plan] == ["both"] * 10 + ["null"] * 3 and plan.executed == tuple(range(13))
    assert [s.stage for s in plan] == [None] * 10 + ["fidelity"] * 3
    assert [s.tokens and s.tokens.ratios for s in plan] == [None] * 10 + [ranks(0.96, n, 8) for n in (3, 2, 1)]


@dataclass(frozen=True)
class Noted(SeededDraws):
    """Draws as ever, and notes from which law."""

    laws: list = field(default_factory=list)

    def rows(self, law_RM, count, context):
        self.laws.append(law_RM)
        return super().rows(law_RM, count, context)


def test_rows_are_drawn_in_proportion_to_their_energy_within_their_picture():
    x, draws = torch.randn(2, 12, 4) * torch.tensor([1.0, 50.0]).view(2, 1, 1), Noted()
    Sketch((0.3,), draws=draws).reduce(x, context(images=2))
    energy = x.square().sum(-1)
    assert torch.allclose(draws.laws[0], torch.stack([row / row.sum() for row in energy]))


def test_a_position_without_energy_is_drawn_after_all_others():
    x = torch.randn(1, 12, 4)
    x[0, :8] = 0
    assert sorted(Sketch((0.3,)).reduce(x, context()).index[0].tolist()) == [8, 9, 10, 11]


def test_a_mixture_is_the_projection_of_all_rows():
    x = torch.randn(1, 12, 4)
    reduced = Sketch((0.3,)).reduce(x, context())
    assert torch.allclose(reduced.x, SeededDraws().projection(4, context()).mT @ x)


def test_a_sketch_is_written_over_the_drawn_rows_of_the_scale_before():
    memory, before = Memory(), torch.randn(1, 12, 4)
    memory.put("hidden", 0, -1, before, (3, 4))
    latent = torch.zeros(1, 5, 3, 4)
    at = TokenContext(3, (3, 4), 0, 1, None, [0], latent, latent, memory)
    x, y = torch.randn(1, 12, 4), torch.randn(1, 4, 4)
    reduced = Sketch((0.3,)).reduce(x, at)
    restored = Sketch((0.3,)).restore(x, y, reduced, at)
    kept = [i for i in range(12) if i not in reduced.index[0].tolist()]
    assert torch.equal(restored[0, reduced.index[0]], y[0]) and torch.equal(restored[0, kept], before[0, kept])


def test_a_sketch_for_another_number_of_groups_is_refused():
    with pytest.raises(OptionError, match="2 ranks but the model has 1"):
        Sketch((0.3, 0.3)).reduce(torch.randn(1, 12, 4), context())
