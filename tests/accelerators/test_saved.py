"""Files of fitted numbers: read strictly, from wherever the user keeps them, and never waited for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stagevar.accelerators.base import Facts
from stagevar.accelerators.skipvar import SHIPPED, SkipVAR
from stagevar.engine.plan.plan import Plan
from stagevar.errors import MissingFileError, OptionError
from stagevar.fit import Fit

FIT = Fit.load(SHIPPED)
FACTS = Facts(depth=6, groups=1, causal=True, model=FIT.model)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": None}, "model is None, not str"),
        ({"prompts": 1.5}, "prompts is 1.5, not int"),
        ({"seed": True}, "seed is True, not int"),
        ({"versions": {"stagevar": 1}}, "versions of stagevar is 1, not str"),
        ({"guidance": [float("nan")]}, "guidance is nan"),
        ({"schedule": [[0, 1]]}, "at least one token"),
        ({"schedule": [[1, 1, 1]]}, "schedule is"),
        ({"other": 1}, "no field 'other'"),
    ],
)
def test_every_entry_is_of_its_kind(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(FIT.to_dict() | change))
    with pytest.raises(OptionError, match=rf"fit\.json is a damaged fit: .*{word}.*; write one with"):
        Fit.load(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"format": "stagevar fit 2", "model": 1, "model": "scenes"}', "it gives 'model' twice"),
        ('{"a":' * 10**5, "nested too deep"),
        (json.dumps({"format": "x" * 2**20}), "too many for what it should be"),
    ],
)
def test_what_is_no_sound_json_is_no_fit(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(OptionError, match=rf"no fit of this version .*{word}.*; write one with"):
        Fit.load(tmp_path / "fit.json")


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zeros.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zeros.json"):
        with pytest.raises(MissingFileError, match="no regular file"):
            Fit.load(tmp_path / name)


def test_a_fit_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FIT.save(tmp_path / "own.json")
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = Plan.uniform(len(FIT.schedule))
    at_home = SkipVAR(fit="~/own.json").plan(plain, FIT.schedule, FACTS)
    assert at_home == SkipVAR().plan(plain, FIT.schedule, FACTS) != plain


def test_damaged_numbers_are_told_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "skipvar.json"
    path.write_text(json.dumps(FIT.to_dict() | {"numbers": {"0.84": 3}}))
    facts = Facts(depth=6, groups=1, causal=True, model=FIT.model, folder=tmp_path)
    with pytest.raises(OptionError, match=r"skipvar: .*skipvar\.json is a damaged fit"):
        SkipVAR().plan(Plan.uniform(len(FIT.schedule)), FIT.schedule, facts)
