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
from stagevar.errors import OptionError, quoted
from stagevar.measure.bench.draw import draw
from stagevar.measure.likeness.fidelity import ssim
from stagevar.measure.lines import append, mend, read_lines, strange
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
        starts = json.dumps({"format": FORMAT})[:-1], '{"genes": ['
        lines = read_lines(path, starts)
        self._read(path, lines, head)
        mend(path)
        if not lines:
            append(path, [head])

    def _read(self, path: Path, lines: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> None:
        for number, each in enumerate(lines[1:], 2):
            try:
                self.known[tuple(map(int, each["genes"])), int(each["caption"])] = float(each["ssim"])
            except (KeyError, TypeError, ValueError):
                raise strange(path, number) from None
        found = lines[0] if lines else head
        if other := [name for name in head if found.get(name) != head[name]]:
            said = ", ".join(f"{name} {quoted(found.get(name))} there, {quoted(head[name])} here" for name in other)
            raise OptionError(f"{path} is of a search with other settings ({said}); choose another folder")

    def add(self, genes: Genes, captions: Sequence[int], values: Sequence[float]) -> None:
        """Note figures of one plan."""
        found = dict(zip(captions, values, strict=True))
        self.known |= {(genes, caption): value for caption, value in found.items()}
        if self.path is not None:
            append(self.path, [{"genes": genes, "caption": caption, "ssim": value} for caption, value in found.items()])


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
