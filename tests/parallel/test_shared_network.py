"""Tensor parallelism: which networks can be split, and that a split one draws what the whole one draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stagevar.errors import OptionError
from stagevar.families.catalogue import FAMILIES, published
from stagevar.families.tiny import tiny
from stagevar.loading.sources import skeleton
from stagevar.parallel.tensor import check_split
from stagevar.pipeline import Pipeline

from .parallel_parts import torchrun

TINY = [name for name, family in FAMILIES.items() if family.tiny is not None]


@pytest.mark.parametrize("family", TINY)
def test_heads_that_cannot_be_shared_are_named(family: str) -> None:
    model = tiny(family)
    check_split(model, 2)
    with pytest.raises(OptionError, match=r"do not divide by 3; take tensor_parallel 2"):
        check_split(model, 3)


def test_a_layer_of_another_name_is_not_passed_over() -> None:
    model = tiny("var")
    model.layers[0].add_module("extra", torch.nn.Linear(4, 4))
    with pytest.raises(OptionError, match="a layer extra that tensor_parallel does not know"):
        check_split(model, 2)


@pytest.mark.parametrize("name", [name for name, _ in published()])
def test_every_published_network_can_be_shared_by_two(name: str) -> None:
    check_split(skeleton(name), 2)


def test_the_pipeline_says_how_to_start_it() -> None:
    with pytest.raises(OptionError, match="torchrun --nproc-per-node 2"):
        Pipeline.from_pretrained("scenes", tensor_parallel=2)
    for wrong in (0, 1.5):
        with pytest.raises(OptionError, match="tensor_parallel"):
            Pipeline.from_pretrained("scenes", tensor_parallel=wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_draw_the_codes_of_one(tmp_path: Path) -> None:
    """Greedy, sampled, and with accelerators that decide by what they see, one by attention of all heads; each process
    has half of the weights of the blocks (vectors are whole) and half of the cache."""
    done = torchrun(Path(__file__).with_name("split_families.py"), *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr.replace("OMP_NUM_THREADS", "")
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [each["family"] for each in found] == TINY
    for each in found:
        assert 0.5 <= each["weights"] < 0.52 and each["packed"] == 0, each
        for run in ("greedy", "sampled", "online", "watched"):
            assert each[f"{run} codes"] and each[f"{run} latent"] < 1e-3, each
            assert each[f"{run} cache"] == (None if each["family"] == "switti" else 0.5), each
