"""Random numbers and the arithmetic of restoration: what a single wrong sign, axis or divisor would change."""

import math

import numpy as np
import pytest
import torch

from stagevar.accelerators.sketch import SeededDraws
from stagevar.engine.grids.noise import normals
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select, least_squares
from stagevar.engine.plan.tokens import Reduced, TokenContext


def context(scale=3, group=0, grid=(4, 4), images=1):
    fields = dict.fromkeys(TokenContext.__dataclass_fields__)
    fields |= {
        "scale": scale,
        "group": group,
        "grid": grid,
        "seeds": list(range(images)),
        "change": torch.zeros(images, 2, 8, 8),
    }
    return TokenContext(**fields)


def test_normals_at_positions_are_those_of_the_whole_grid():
    index = torch.tensor([[1, 6, 3], [0, 2, 7]])
    whole = normals([4, 5], 2, 8, 3, None, torch.device("cpu"))
    part = normals([4, 5], 2, 8, 3, index, torch.device("cpu"))
    assert torch.equal(part, torch.stack([whole[i, index[i]] for i in range(2)]))


def test_normal_numbers_have_a_stream_apart_from_the_uniform_ones():
    shared = np.random.Generator(np.random.Philox(key=np.array([4, 2], dtype=np.uint64)))
    normal = normals([4], 2, 16, 1, None, torch.device("cpu"))[0]
    assert not torch.equal(normal, torch.from_numpy(shared.standard_normal((16, 1), dtype=np.float32)))


def test_sketches_of_groups_scales_and_kinds_differ():
    draws = SeededDraws()
    seen = [draws.projection(3, context(scale, group)) for scale in (2, 3) for group in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_a_projection_keeps_the_squared_length_on_average():
    drawn = SeededDraws().projection(64, context(grid=(64, 64)))
    assert drawn.square().sum(2).mean().item() == pytest.approx(1, rel=0.02)
    assert drawn.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.02)


def test_the_ridge_follows_the_size_of_the_rows():
    """Weights of least squares have no unit: rows a thousand times as large give the same."""
    x = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    small, large = least_squares(x, x[:, :4]), least_squares(1000 * x, 1000 * x[:, :4])
    assert torch.allclose(small, large, atol=1e-4)


def test_distance_is_from_the_mean_row_of_the_same_picture():
    x = torch.zeros(2, 4, 1)
    x[0] = torch.tensor([[0.0], [0.0], [0.0], [4.0]])
    x[1] = 100 + torch.tensor([[9.0], [0.0], [0.0], [0.0]])
    scores = Select(0.5, score="distance").scores(x, context(images=2))
    assert torch.allclose(scores, torch.tensor([[1.0, 1, 1, 9], [45.5625, 5.0625, 5.0625, 5.0625]]))


def test_nearest_adds_the_increment_and_keeps_each_row():
    x = torch.arange(4.0).view(1, 4, 1) * 10
    index = torch.tensor([[0, 3]])
    reduced = Reduced(x[:, [0, 3]], None, index)
    restored = Select(0.5, restore_by="nearest").restore(
        x, x[:, [0, 3]] + torch.tensor([[[1.0], [2.0]]]), reduced, context(grid=(1, 4))
    )
    assert restored.flatten().tolist() == [1, 11, 22, 32]


def test_a_map_of_the_scale_before_is_interpolated_linearly():
    memory = Memory()
    memory.put("increment", 0, 2, torch.tensor([[[0.0], [4.0]]]), (1, 2))
    assert memory.get("increment", 0, 2, (1, 4)).flatten().tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("field", [{"cache": "none"}, {"tokens": Select(0.5)}])
def test_plans_of_another_cache_or_reduction_run_apart(field):
    plain = Plan.uniform(3)
    assert plain.replace([1], **field)[1].shape != plain[1].shape
