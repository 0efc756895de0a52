"""Requests of every form that the OpenAPI description allows, and of many that it does not: none is a fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from stagevar.pipeline import Pipeline
from stagevar.serve.limits import EDITS, PICTURES, Limits

from .conftest import Served, serving

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def tight(pipelines: dict[str, Pipeline]) -> Iterator[Served]:
    """A server that draws no large pictures, so that the requests go through."""
    with serving(pipelines, limits=Limits(pixels=64 * 64, pictures=2)) as found:
        yield found


def answers(served: Served, mode: GenerationMode, count: int, path: str = PICTURES) -> Counter[int]:
    """How many requests of a kind were answered with each code."""
    description, codes = schemathesis.openapi.from_url(f"{served.url}/openapi.json"), Counter[int]()

    @given(description[path]["POST"].as_strategy(generation_mode=mode))
    @settings(max_examples=count, deadline=None, derandomize=count < 1000, suppress_health_check=list(HealthCheck))
    def one(case: Any) -> None:
        codes[case.call_and_validate(checks=CHECKS).status_code] += 1

    one()
    return codes


def test_requests_as_described_are_no_fault(tight: Served) -> None:
    codes = answers(tight, GenerationMode.POSITIVE, 60)
    assert codes[200] and codes[400] and set(codes) <= {200, 400, 404}


def test_requests_of_other_forms_are_refused(tight: Served) -> None:
    assert set(answers(tight, GenerationMode.NEGATIVE, 60)) == {400}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_edits_of_files_that_are_no_pictures_are_refused(tight: Served, mode: GenerationMode) -> None:
    assert set(answers(tight, mode, 40, EDITS)) <= {400, 404}


@pytest.mark.slow
def test_ten_thousand_requests_are_no_fault(tight: Served) -> None:
    codes = answers(tight, GenerationMode.POSITIVE, 6000) + answers(tight, GenerationMode.NEGATIVE, 4000)
    assert codes.total() >= 10_000 and codes[200] > 100 and max(codes) < 500
