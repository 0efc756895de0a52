"""``outlines``: what it reads of a picture that is given, and that its plan is made in advance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stagevar.accelerators.base import Facts
from stagevar.accelerators.outlines import STEPS, Outlines, busy
from stagevar.editing.edit import Edit
from stagevar.engine.grids.latent import DETAIL, detail
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny
from stagevar.pipeline import Pipeline
from stagevar.request import Request

PIPE = Pipeline(tiny("scenes", grids=(1, 2, 3, 5, 8)))
SCHEDULE = PIPE.model.schedule()


def shown(columns: int) -> NDArray[np.uint8]:
    """A grey picture with fine stripes in its first columns, of sixteen."""
    picture = np.full((16, 16, 3), 90, dtype=np.uint8)
    picture[::2, :columns] = 200
    return picture


def kept(picture: Any, **settings: Any) -> float:
    plan = PIPE.prepare(Request("a star", edit=Edit.read(picture), accelerator=Outlines(**settings))).plan
    rule = plan[-1].tokens
    assert rule is None or isinstance(rule, Select)
    return 1.0 if rule is None else rule.keep


def test_a_busy_picture_runs_more_rows_than_a_flat_one_in_sixteenths() -> None:
    shares = [kept(shown(columns), least=0.3) for columns in (2, 6, 12, 16)]
    assert shares == sorted(shares) and shares[0] < 0.3 and shares[-1] == 1
    assert all((STEPS * share).is_integer() for share in shares)
    assert kept(shown(6), least=0.0) == 1 and kept(shown(0)) == 1


def test_haze_and_darkness_do_not_matter() -> None:
    clear = shown(6)
    assert kept((clear // 4).astype(np.uint8)) == kept(clear) == kept((clear // 2 + 100).astype(np.uint8))


def test_rows_run_where_the_picture_has_contrast() -> None:
    seen: dict[tuple[str, int], torch.Tensor] = {}
    request = Request("a star", edit=Edit.read(shown(6), strength=1), accelerator="outlines(n=1)")
    for _ in PIPE.events([request], tap=lambda name, k, tensor: seen.setdefault((name, k), tensor)):
        pass
    columns = seen["places.0", 4][0] % SCHEDULE[4][1]
    assert ("places.0", 3) not in seen and columns.max() <= 4 and len(columns) == round(64 * kept(shown(6)))


def test_without_a_picture_half_of_the_rows_run_by_the_latents_contrast() -> None:
    plan = PIPE.prepare(Request("a star", accelerator="outlines")).plan
    assert [scale.tokens and scale.tokens.keep for scale in plan] == [None] * 3 + [0.5, 0.5]  # type: ignore[attr-defined]
    by_latent = plan.replace([3, 4], tokens=Select(0.5, "contrast", "zero_code"))
    same = PIPE("a star", plan=plan, seed=1), PIPE("a star", plan=by_latent, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(*(each.codes[0] for each in same), strict=True))


def test_pictures_with_and_without_one_to_begin_with_share_a_batch() -> None:
    requests = [
        Request("a star", seed=1, accelerator="outlines"),
        Request("a ring", seed=2, accelerator="outlines(least=0.5)", edit=Edit.read(shown(8), strength=1)),
    ]
    *_, together = PIPE.events(requests)
    for i, request in enumerate(requests):
        *_, alone = PIPE.events([request])
        assert together.result is not None and alone.result is not None
        assert all(torch.equal(a, b) for a, b in zip(together.result.codes[i], alone.result.codes[0], strict=True))


def test_detail_is_the_contrast_of_means_of_cells() -> None:
    pictures = torch.rand(2, 3, 64, 64)
    found = detail(pictures)
    means = pictures.unflatten(2, (DETAIL, 4)).unflatten(4, (DETAIL, 4)).mean((3, 5))
    want = sum((means[:, :, 5, 5] - means[:, :, y, x]).square().sum(1) for y, x in ((4, 5), (6, 5), (5, 4), (5, 6)))
    assert found.shape == (2, 1, DETAIL, DETAIL)
    torch.testing.assert_close(found[:, 0, 5, 5], want)


def test_settings_are_checked_and_none_is_the_plain_plan() -> None:
    with pytest.raises(OptionError, match="least"):
        Outlines(least=1.5)
    plan, facts = Plan.uniform(5), Facts(3, 3, True, detail=torch.rand(16, 16))
    assert Outlines(n=0).plan(plan, SCHEDULE, facts) == plan
    assert Outlines(least=0.0).plan(plan, SCHEDULE, facts) == plan
    assert busy(torch.zeros(16, 16), 0.5) == 1
