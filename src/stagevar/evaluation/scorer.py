"""A benchmark's own scorer, run as a command line in an environment of the user's, and its results."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from stagevar.errors import MissingFileError, OptionError, StagevarError
from stagevar.evaluation.run import PICTURES
from stagevar.evaluation.suite import Suite

FIELDS = "pictures", "prompts", "folder", "results"
"""In a command line {pictures} stands for the pictures in their official layout, {prompts} for the benchmark's prompts,
{folder} for the folder of the run, {results} for a file or folder to write. Without {results}, the command's standard
output is the results."""


@dataclass(frozen=True)
class Scorer:
    """A command line that scores a run.

    Attributes:
        command: with the fields above.

    Raises:
        OptionError: it has other fields, or quotes that do not close.
    """

    command: str

    def __post_init__(self) -> None:
        if unknown := set(re.findall(r"\{(\w+)\}", self.command)) - set(FIELDS):
            raise OptionError(f"a scorer has the fields {', '.join(FIELDS)}, not {', '.join(sorted(unknown))}")
        self._words()

    def _words(self) -> list[str]:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise OptionError(f"the scorer's command line cannot be read: {error}") from None
        if not words:
            raise OptionError("the scorer's command line is empty")
        return words

    def check(self) -> None:
        """Raise if there is no such command; one that lies in the run's folder is not looked for.

        Raises:
            MissingFileError
        """
        command = self._words()[0]
        if "{" not in command and shutil.which(command) is None:
            raise MissingFileError(f"cannot run the scorer {command}: there is no such command")

    def run(self, suite: Suite, folder: Path, prompts: str) -> Path:
        """Run it; what it writes to standard error is shown.

        Args:
            suite: whose scorer it is.
            folder: of the run.
            prompts: file or folder of the benchmark.

        Returns:
            The file of its results.

        Raises:
            MissingFileError: there is no such command, or it left no results.
            StagevarError: it failed.
        """
        results = (
            folder.absolute() / "results" / f"{time.strftime('%Y%m%d-%H%M%S')}{'' if suite.inside else suite.results}"
        )
        results.parent.mkdir(parents=True, exist_ok=True)
        named = {"pictures": folder.absolute() / PICTURES, "prompts": prompts, "folder": folder.absolute()}
        words = [_filled(word, {**named, "results": results}) for word in self._words()]
        try:
            done = subprocess.run(words, stdout=subprocess.PIPE, check=False)
        except OSError as error:
            raise MissingFileError(f"cannot run the scorer {words[0]}: {error.strerror or error}") from None
        if done.returncode:
            raise StagevarError(f"the scorer {words[0]} ended with code {done.returncode}; its last words are above")
        if "{results}" not in self.command:
            results.write_bytes(done.stdout)
        found = sorted(results.glob(suite.inside)) if suite.inside and results.is_dir() else [results]
        if not found or not found[-1].is_file():
            raise MissingFileError(f"the scorer left no results at {results}")
        return found[-1]


def _filled(word: str, fields: dict[str, object]) -> str:
    for name, value in fields.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word
