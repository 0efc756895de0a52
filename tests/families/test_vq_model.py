"""What the families on the vector-quantising tokenizer share."""

from __future__ import annotations

import pytest
import torch

from stagevar.errors import SizeError
from stagevar.families.blocks import padded_text
from stagevar.families.tiny import tiny
from stagevar.families.tokenizers.vq import VQConfig, VQTokenizer
from stagevar.families.vq_model import VQModel, check_schedules, rotary_table, squares

CPU = torch.device("cpu")
SCHEDULES = (squares(1, 2, 4), ((1, 1), (3, 2), (6, 4)), ((1, 1), (1, 2), (3, 6)))


class Sized(VQModel):
    """The parts that are under test, without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.schedules = "sized", SCHEDULES
        self.tokenizer = VQTokenizer(VQConfig(32, (1, 2), 1, 4, 8))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Sized:
    monkeypatch.setattr(Sized, "__abstractmethods__", frozenset())
    return Sized()


def test_sizes(model: Sized) -> None:
    assert model.sizes() == [(8, 8), (12, 8), (6, 12)]
    assert model.schedule() == SCHEDULES[0]
    assert [model.schedule(*size) for size in model.sizes()] == list(SCHEDULES)
    assert model.schedule(height=12) == SCHEDULES[1]
    with pytest.raises(SizeError, match=r"no 8x13 pictures \(width x height\); it draws 8x12, 8x8, 12x6$"):
        model.schedule(13, 8)
    assert model.empty_latent(3, SCHEDULES[2]).shape == (3, 4, 3, 6)


def test_guidance_ramps_up(model: Sized) -> None:
    assert model.guidance_schedule(4.0, SCHEDULES[0]) == (1.0, 3.0, 5.0)
    assert model.guidance_schedule(4.0, SCHEDULES[0][:1]) == (1.0,)
    assert set(model.guidance_schedule(0.0, SCHEDULES[0])) == {1.0}


def test_codes_add_up_and_are_decoded(model: Sized) -> None:
    latent = model.empty_latent(1, SCHEDULES[1])
    for k, (h, w) in enumerate(SCHEDULES[1]):
        latent = model.add_codes(latent, torch.full((1, h * w), k), SCHEDULES[1], k)
    assert latent.abs().sum() > 0
    assert model.decode(latent).shape == (1, 3, 12, 8)


@pytest.mark.parametrize("grid", [(5, 5), (3, 2), (1, 4), (1, 1)])
def test_positions_run_over_the_same_range_on_every_grid(grid: tuple[int, int]) -> None:
    table = rotary_table(grid, 8, 100.0, 64.0, CPU).view(*grid, 8, 2)
    frequencies = torch.tensor([100.0 ** (-j / 4) for j in range(4)])
    for axis, along in ((1, table[0, :, :4]), (0, table[:, 0, 4:])):
        position = torch.linspace(0, 64, grid[axis]) if grid[axis] > 1 else torch.zeros(1)
        angles = position[:, None] * frequencies
        torch.testing.assert_close(along, torch.stack([angles.cos(), angles.sin()], -1), atol=2e-5, rtol=0)
    assert torch.equal(table[0, :, :4], table[-1, :, :4])
    assert torch.equal(table[:, 0, 4:], table[:, -1, 4:])


def test_a_table_made_while_drawing_serves_for_training() -> None:
    model = tiny("switti")
    assert isinstance(model, VQModel)
    with torch.inference_mode():
        table = model.rotary((7, 3), 4, 10.0, 1.0)
    assert not table.is_inference()
    assert model.rotary((7, 3), 4, 10.0, 1.0) is table


def test_unusable_schedules() -> None:
    check_schedules(SCHEDULES)
    for schedules in ((), ((),), (squares(1, 2), squares(1, 2, 4)), (squares(1, 2, 4), squares(1, 3, 4))):
        with pytest.raises(ValueError, match="sizes"):
            check_schedules(schedules)


def test_texts_are_padded_to_the_longest() -> None:
    states, mask = padded_text([torch.ones(2, 3), torch.ones(4, 3, dtype=torch.bfloat16)], CPU)
    assert states.dtype == torch.float32
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert torch.equal(states.any(-1), mask)
