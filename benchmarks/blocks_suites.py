"""The page of benchmarks, from what their files say of themselves."""

from __future__ import annotations

from stagevar.evaluation.suite import Suite
from stagevar.evaluation.suites.known import SUITES


def suites() -> str:
    return "\n\n".join(map(_suite, SUITES.values()))


def _suite(suite: Suite) -> str:
    protocols = "\n".join(f"* {each.sentence()}" for each in suite.protocols)
    prompts = f"`--prompts` takes {suite.prompts}. Its scorer ({suite.source}):"
    return f"### {suite.title}: `stagevar eval {suite.name}`\n\n{prompts}\n\n    {suite.scorer}\n\n{protocols}"
