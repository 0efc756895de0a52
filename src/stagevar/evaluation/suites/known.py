"""All benchmarks by name."""

from __future__ import annotations

from stagevar.errors import OptionError, quoted
from stagevar.evaluation.suite import Suite
from stagevar.evaluation.suites import dpg, evalscope, geneval, geneval2, hps, imagereward, photographs

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        geneval.SUITE,
        geneval2.SUITE,
        dpg.SUITE,
        hps.SUITE,
        imagereward.SUITE,
        photographs.MJHQ,
        photographs.COCO,
        evalscope.SUITE,
    )
}


def find(name: str) -> Suite:
    """The benchmark of a name.

    Raises:
        OptionError: there is none.
    """
    if name not in SUITES:
        raise OptionError(f"there is no benchmark {quoted(name)}; there is {', '.join(SUITES)}")
    return SUITES[name]
