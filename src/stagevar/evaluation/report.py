"""What a run of a benchmark says of itself. A score never stands without the protocol that it was measured by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stagevar.errors import MissingFileError, OptionError, OutputError
from stagevar.evaluation.layout import Laid
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import digest, free, read_json
from stagevar.evaluation.run import Run
from stagevar.evaluation.suite import Scores, Suite
from stagevar.files import replacing

JSON, PAGE = "report.json", "report.md"


@dataclass(frozen=True)
class Measured:
    """Scores of one scorer.

    Attributes:
        values: by name, the headline first.
        by: what measured them, in words: a command line, a file, another run.
        sha256: of the results or weights that they come from.
    """

    values: Mapping[str, float]
    by: str
    sha256: str


@dataclass(frozen=True)
class Report:
    """A run of a benchmark.

    Attributes:
        suite: name of the benchmark.
        title: name of the benchmark in words.
        source: whose scorer it is.
        protocol: how its pictures were drawn, with the model's own settings where it leaves them open.
        model: model, accelerator, seed, dtype and versions.
        prompts, prompts_sha256: file of the benchmark's prompts.
        rewritten, rewritten_sha256: file of the rewritten prompts, "" without one.
        laid: how many pictures there are, and which scales ran.
        measured: scores by what was measured.
    """

    suite: str
    title: str
    source: str
    protocol: Protocol
    model: Mapping[str, Any]
    prompts: str
    prompts_sha256: str
    rewritten: str
    rewritten_sha256: str
    laid: Laid
    measured: Mapping[str, Measured] = field(default_factory=dict)

    @classmethod
    def made(
        cls,
        run: Run,
        protocol: Protocol,
        settings: dict[str, Any],
        laid: Laid,
        prompts: Path,
        rewritten: Path | None,
    ) -> Report:
        """The report of a run that has been drawn and not scored.

        Args:
            run: what was drawn.
            protocol: its protocol, resolved.
            settings: of its job.
            laid: what its layout found.
            prompts, rewritten: the files that its prompts come from.
        """
        suite, rewriting = run.suite, (str(rewritten), digest(rewritten)) if rewritten else ("", "")
        known = suite.name, suite.title, suite.source
        return cls(*known, protocol, settings | laid.made, str(prompts), digest(prompts), *rewriting, laid)

    @staticmethod
    def require_place(suite: Suite, folder: Path) -> None:
        """Raise if a file of others is where the page goes.

        Raises:
            OutputError
        """
        if not free(folder / PAGE, f"# {suite.title}\n\n* protocol "):
            raise OutputError(f"{folder / PAGE} was not written by stagevar and is kept; give another folder")

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / JSON).exists()

    @classmethod
    def of(cls, suite: Suite, folder: Path) -> Report:
        """The report of a run of a benchmark.

        Raises:
            MissingFileError, OptionError: as in ``read``; or the run is of another benchmark.
        """
        found = cls.read(folder)
        if found.suite != suite.name:
            raise OptionError(f"{folder} holds a run of {found.title}, not of {suite.title}; give another folder")
        return found

    @classmethod
    def read(cls, folder: Path) -> Report:
        """The report of any run.

        Raises:
            MissingFileError: the folder holds none.
            OptionError: it is of another program.
        """
        if not cls.exists(folder):
            raise MissingFileError(f"{folder} holds no run of a benchmark; give --prompts to draw one")
        found = read_json(folder / JSON)
        try:
            measured = {name: Measured(**each) for name, each in found.pop("measured").items()}
            protocol, laid = Protocol(**found.pop("protocol")), Laid(**found.pop("laid"))
            return cls(**found, protocol=protocol, laid=laid, measured=measured)
        except (AttributeError, KeyError, TypeError):
            raise OptionError(f"{folder / JSON} is no report of a benchmark; give another folder") from None

    def with_scores(self, name: str, scores: Scores, by: str, sha256: str) -> Report:
        """This report with further scores, in place of those of the same name.

        Raises:
            OptionError: the scorer counted other pictures than the run has.
        """
        if scores.counted not in (None, self.laid.files):
            files = f"{self.laid.files} file{'s' * (self.laid.files != 1)}"
            raise OptionError(f"the results are of {scores.counted} pictures, and the run has {files}; score it again")
        return replace(self, measured={**self.measured, name: Measured(scores.values, by, sha256)})

    def write(self, folder: Path) -> None:
        """Write the report as data and as a page.

        Raises:
            OutputError
        """
        for name, text in ((JSON, json.dumps(asdict(self), indent=1)), (PAGE, self.page())):
            with replacing(folder / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def page(self) -> str:
        """The report in Markdown."""
        model = ", ".join(f"{name} {value}" for name, value in self.model.items() if value not in (None, ""))
        lines = [f"# {self.title}", "", f"* {self.protocol.sentence()}", f"* {model}", f"* {self._scales()}"]
        lines.append(f"* prompts {self.prompts} (sha256 {self.prompts_sha256[:12]})")
        if self.rewritten:
            lines.append(f"* rewritten prompts {self.rewritten} (sha256 {self.rewritten_sha256[:12]})")
        lines.append(f"* {self.laid.drawn} of {self.laid.asked} pictures drawn, {self.laid.files} files for the scorer")
        if not self.measured:
            return "\n".join([*lines, "", "Not scored yet."])
        lines += ["", "| measured | score | value | by |", "| --- | --- | --- | --- |"]
        for name, each in self.measured.items():
            lines += [f"| {name} | {score} | {value:.4f} | {each.by} |" for score, value in each.values.items()]
        return "\n".join(lines)

    def _scales(self) -> str:
        if not self.laid.scales:
            return "no scale ran"
        shares = (
            f"{scale} ({count})" if count < self.laid.drawn else scale for scale, count in self.laid.scales.items()
        )
        return f"scales that ran, with the pictures where not all: {', '.join(shares)}"
