"""What a run is measured by: its own scorer, results of one, photographs, or another run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stagevar.errors import MissingFileError, OptionError
from stagevar.evaluation.reading import digest
from stagevar.evaluation.report import Report
from stagevar.evaluation.run import DRAWN, PICTURES
from stagevar.evaluation.scorer import Scorer
from stagevar.evaluation.suite import Suite


@dataclass(frozen=True)
class Measures:
    """All that a user wants measured of one run.

    Attributes:
        scorer: a command line that scores it.
        results: what such a command line has written before.
        real, features: photographs, and the weights of Inception, for the Frechet distance.
        against: another run of the same prompts and seeds, for the self-distance.

    Raises:
        OptionError: photographs without weights, weights without photographs, or both scorer and results.
    """

    scorer: Scorer | None = None
    results: Path | None = None
    real: Path | None = None
    features: Path | None = None
    against: Path | None = None

    def __post_init__(self) -> None:
        if (self.real is None) != (self.features is None):
            raise OptionError("--real and --features belong together: photographs, and the weights that see them")
        if self.scorer and self.results:
            raise OptionError("--scorer makes results, --results has them; give one")

    def check(self, suite: Suite) -> None:
        """Find out what cannot be measured, before anything is drawn or scored.

        Raises:
            MissingFileError: a file, folder or command is not there.
            MissingExtraError: the package of the Frechet distance is not installed.
            OptionError: results of another form, or another run that is of another benchmark.
        """
        if self.scorer:
            self.scorer.check()
        if self.results:
            suite.scores(self.results)
        if self.real and self.features:
            from stagevar.evaluation.distance import require_measure

            require_measure(self.real, self.features)
        if self.against:
            Report.of(suite, self.against)
            if not (self.against / DRAWN).is_dir():
                raise MissingFileError(f"there is no folder {self.against / DRAWN}")

    @property
    def wanted(self) -> bool:
        return any((self.scorer, self.results, self.real, self.against))

    def taken(self, report: Report, suite: Suite, folder: Path) -> Report:
        """The report of a run with its scores, each of which is written before the next is begun.

        Raises:
            OptionError: results of another form, or of other pictures.
            StagevarError: a scorer failed.
        """
        if results := self.results or (self.scorer and self.scorer.run(suite, folder, report.prompts)):
            by = f"`{self.scorer.command}`" if self.scorer else results.name
            report = report.with_scores(suite.name, suite.scores(results), by, digest(results))
            report.write(folder)
        if self.real and self.features:
            from stagevar.evaluation.distance import frechet

            scores, by = frechet(folder / PICTURES, self.real, self.features)
            report = report.with_scores("frechet", scores, by, digest(self.features))
            report.write(folder)
        if self.against:
            from stagevar.evaluation.distance import self_distance

            other = Report.of(suite, self.against)
            scores, count = self_distance(folder / DRAWN, self.against / DRAWN)
            by = f"{count} pictures of {self.against} ({other.model['accelerator']})"
            report = report.with_scores("self-distance", scores, by, digest(self.against / "report.json"))
            report.write(folder)
        return report
