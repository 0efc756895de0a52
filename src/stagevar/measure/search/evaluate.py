"""How close plans come to the plain run: SSIM caption by caption, each noted in a journal as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from stagevar.accelerators.base import Nothing
from stagevar.engine.plan.signals import Signals
from stagevar.errors import OptionError
from stagevar.files import unwritable
from stagevar.measure.bench.draw import draw
from stagevar.measure.likeness.fidelity import ssim
from stagevar.measure.search.genome import Genes, Genome
from stagevar.measure.why.notes import Noting
from stagevar.pipeline import Pipeline
from stagevar.request import Request

FORMAT = "stagevar search 1"


class Journal:
    """What a search has found out, a line each; a later search of the same settings goes on from it.

    Args:
        path: of the file; None keeps everything in memory.
        settings: what the figures depend on.

    Raises:
        OptionError: the file is of other settings, or no journal.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path, self.known = path, dict[tuple[Genes, int], float]()
        head = json.loads(json.dumps({"format": FORMAT, **settings}))
        if path is None:
            return
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
            whole = [line for line in lines if line.endswith("\n")]
            if whole != lines:  # a run that was killed while it wrote
                path.write_text("".join(whole), encoding="utf-8")
            if not whole:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from error
        self._read(whole, head)

    def _read(self, lines: Sequence[str], head: Mapping[str, Any]) -> None:
        try:
            found, *entries = map(json.loads, lines or [json.dumps(head)])
            other = [name for name in head if found.get(name) != head[name]]
            self.known = {(tuple(each["genes"]), int(each["caption"])): float(each["ssim"]) for each in entries}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OptionError(f"{self.path} is no journal of a search: {error}; choose another folder") from None
        if other:
            said = ", ".join(f"{name} {found.get(name)!r} there, {head[name]!r} here" for name in other)
            raise OptionError(f"{self.path} is of a search with other settings ({said}); choose another folder")

    def add(self, genes: Genes, captions: Sequence[int], values: Sequence[float]) -> None:
        """Note figures of one plan."""
        self.known |= {(genes, caption): value for caption, value in zip(captions, values, strict=True)}
        if self.path is None:
            return
        pairs = zip(captions, values, strict=True)
        lines = [json.dumps({"genes": genes, "caption": caption, "ssim": value}) + "\n" for caption, value in pairs]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise unwritable(self.path, error) from error


@dataclass
class Evaluation:
    """Draws captions by plans, and by the plain run once.

    Attributes:
        pipeline: the model.
        genome: makes plans of genes.
        requests: one per caption.
        journal: of figures that are known.
        batch_size: pictures per pass.
        plain: pictures (3, h, w) of the plain run by caption.
        signals: of the plain run by caption and scale.
        drawn: pictures that plans have drawn so far.
    """

    pipeline: Pipeline
    genome: Genome
    requests: Sequence[Request]
    journal: Journal
    batch_size: int = 8
    plain: dict[int, Tensor] = field(default_factory=dict)
    signals: dict[int, dict[int, Signals]] = field(default_factory=dict)
    drawn: int = 0

    def mean(self, genes: Genes, captions: Sequence[int]) -> float:
        return fmean(self(genes, captions))

    def __call__(self, genes: Genes, captions: Sequence[int]) -> list[float]:
        """SSIM to the plain run, per caption."""
        missing = [caption for caption in captions if (genes, caption) not in self.journal.known]
        for start in range(0, len(missing), self.batch_size):
            part = missing[start : start + self.batch_size]
            own = [replace(self.requests[i], plan=self.genome.plan(genes), guidance_scale=None) for i in part]
            pictures = draw(self.pipeline, own, "none").pictures
            self.journal.add(genes, part, ssim(pictures, self._plain(part)).tolist())
            self.drawn += len(part)
        return [self.journal.known[genes, caption] for caption in captions]

    def _plain(self, captions: Sequence[int]) -> Tensor:
        self.look(captions)
        return torch.stack([self.plain[caption] for caption in captions])

    def look(self, captions: Sequence[int]) -> None:
        """Draw the plain run of captions, if it has not been, and keep its pictures and signals."""
        missing = [caption for caption in captions if caption not in self.plain]
        for start in range(0, len(missing), self.batch_size):
            part = missing[start : start + self.batch_size]
            noting = [Noting(Nothing()) for _ in part]
            own = [replace(self.requests[i], accelerator=each) for i, each in zip(part, noting, strict=True)]
            *_, last = self.pipeline.events(own, batch_size=len(own), output_type="pt")
            assert last.result is not None
            self.plain |= dict(zip(part, last.result.images, strict=True))
            for i, each in zip(part, noting, strict=True):
                self.signals[i] = {k: note.signals for k, note in each.notes.items()}
