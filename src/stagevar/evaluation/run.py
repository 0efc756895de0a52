"""One run of a benchmark: the rows that a job draws, and the folder that the run lies in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stagevar.errors import OptionError, quoted, some
from stagevar.evaluation.protocol import Protocol
from stagevar.evaluation.reading import read_json
from stagevar.evaluation.suite import Item, Suite
from stagevar.jobs.rows import Numbered, Row

DRAWN, PICTURES = "drawn", "pictures"
"""Folders of a run: the job's pictures with their records, and those that the official scorer reads."""


@dataclass(frozen=True)
class Run:
    """A benchmark's prompts, to be drawn by a protocol into a folder.

    Attributes:
        suite, protocol: what is drawn, and how.
        items: the prompts.
        folder: of the run.
        rewritten: the text that is drawn in place of each prompt, if the protocol rewrites them.
    """

    suite: Suite
    protocol: Protocol
    items: Sequence[Item]
    folder: Path
    rewritten: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.suite.suffix == ".jpg" and not self.protocol.jpeg:
            raise OptionError(f"{self.suite.title} reads JPEG files; give a quality")
        if self.suite.sheet and self.protocol.per_prompt != 4:
            raise OptionError(f"a sheet of {self.suite.title} has 4 pictures, not {self.protocol.per_prompt}")
        missing = [item.prompt for item in self.items if item.prompt not in self.rewritten]
        if self.protocol.rewritten and missing:
            raise OptionError(
                f"{len(missing)} prompts are not rewritten, such as {quoted(missing[0])}; give --rewritten"
            )

    @property
    def drawn(self) -> Path:
        return self.folder / DRAWN

    def rows(self) -> list[Numbered]:
        """A row per picture. Its seed follows from the job's and its id, so that runs by other accelerators have the
        same noise."""
        ids = [(item, row) for item in self.items for row in row_ids(item, self.protocol)]
        return [Numbered(number, self._row(item, row)) for number, (item, row) in enumerate(ids, 1)]

    def _row(self, item: Item, name: str) -> Row:
        how = self.protocol
        return Row(
            id=name,
            prompt=self.rewritten[item.prompt] if how.rewritten else item.prompt,
            guidance_scale=how.guidance,
            temperature=how.temperature,
            top_k=how.top_k if isinstance(how.top_k, int) else None,
            top_p=how.top_p,
        )


def row_ids(item: Item, protocol: Protocol) -> list[str]:
    """The ids of the rows that draw an item's pictures."""
    return [f"{item.key}_{i}" for i in range(protocol.per_prompt)]


def read_rewritten(path: Path) -> dict[str, str]:
    """Rewritten prompts by the prompts as they are, as in ``prompt_rewrite_cache.json`` of Infinity.

    Raises:
        MissingFileError: the file cannot be read.
        OptionError: it is no JSON object of texts.
    """
    found = read_json(path.expanduser())
    if not isinstance(found, dict):
        raise OptionError(f"{path} is no JSON object from prompts to rewritten prompts")
    if bad := [key for key, text in found.items() if not isinstance(text, str) or not text.strip()]:
        raise OptionError(f"{path} has no text for {some(map(quoted, bad))}")
    return found
