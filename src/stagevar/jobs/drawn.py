"""Rows to encoded pictures: what every worker of a job does, here or on another machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from threading import Event
from typing import Any

from PIL import Image

from stagevar.cores import Cores, default_lanes
from stagevar.drawing import batches, read_prompts
from stagevar.errors import NumericError, RequestError, first_line
from stagevar.jobs.rows import Bad, Numbered
from stagevar.pipeline import Pipeline
from stagevar.prepared import Prepared
from stagevar.record import png_fields, records
from stagevar.request import Request


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished picture.

    Attributes:
        id: of its row.
        digest: of its row.
        png: the file's contents, with the record inside.
        record: what repeats the picture, and under ``scales`` what ran.
    """

    id: str
    digest: bytes
    png: bytes
    record: dict[str, Any]


@dataclass(frozen=True)
class Drawer:
    """Draws the rows of a job with one model, and two batches at once where that pays (``cores.py``).

    Attributes:
        pipe: the model.
        seed: of the job.
        batch_size: pictures at once.
    """

    pipe: Pipeline
    seed: int
    batch_size: int
    _cores: Cores = field(default_factory=Cores, init=False)

    def __call__(self, rows: Sequence[Numbered]) -> Iterator[list[Drawn] | Bad]:
        """Draw rows, those of one size together. A row that the model cannot draw harms no other.

        Yields:
            The pictures of a batch as soon as they are there, or a row that cannot be drawn.
        """
        ready: list[tuple[Numbered, Prepared]] = []
        for each in rows:
            try:
                ready.append((each, self.pipe.prepare(each.row.request(self.seed))))
            except RequestError as error:
                yield Bad(each.number, each.row.id, str(error))
        lanes = min(default_lanes([self.pipe]), self.batch_size)
        parts = batches([prepared for _, prepared in ready], self.batch_size // lanes)
        pool, over = ThreadPoolExecutor(lanes), Event()
        try:
            ahead = [pool.submit(self._lane, [ready[i] for i in positions], over.is_set) for positions in parts]
            for drawn in ahead:
                yield from drawn.result()
        finally:
            over.set()
            pool.shutdown(cancel_futures=True)

    def _lane(self, batch: Sequence[tuple[Numbered, Prepared]], over: Callable[[], bool]) -> list[list[Drawn] | Bad]:
        """All that becomes of a batch; until ``over``, when nobody waits for it any more."""
        self._cores.begin()
        try:
            read = self._read(batch)
            bad = [Bad(each.number, each.row.id, str(error)) for each, error in read if isinstance(error, RequestError)]
            good = [(each, request) for each, request in read if isinstance(request, Request)]
            return [*bad, *(self._batch(good, over) if good else ())]
        finally:
            self._cores.end()

    def _read(self, batch: Sequence[tuple[Numbered, Prepared]]) -> list[tuple[Numbered, Request | RequestError]]:
        """The requests with their prompts read: all at once, or if one is refused one by one."""
        rows, requests = [each for each, _ in batch], [prepared.request for _, prepared in batch]
        with suppress(RequestError):
            return list(zip(rows, read_prompts(self.pipe.model, requests, len(batch)), strict=True))
        found: list[tuple[Numbered, Request | RequestError]] = []
        for each, request in zip(rows, requests, strict=True):
            try:
                found.append((each, read_prompts(self.pipe.model, [request], 1)[0]))
            except RequestError as error:
                found.append((each, error))
        return found

    def _batch(
        self, batch: Sequence[tuple[Numbered, Request]], over: Callable[[], bool]
    ) -> Iterator[list[Drawn] | Bad]:
        """One batch; if numbers fail in it, its pictures one by one, so that it is known which."""
        requests = [request for _, request in batch]
        self._cores.share()
        try:
            for event in self.pipe.events(requests, batch_size=len(batch), cancelled=over):
                self._cores.share()
                result = event.result
        except NumericError as error:
            if len(batch) == 1:
                yield Bad(batch[0][0].number, batch[0][0].row.id, first_line(error))
                return
            for one in batch:
                yield from self._batch([one], over)
            return
        assert result is not None
        passes = [asdict(each) for each in result.trace.records]
        done = []
        drawn = zip(batch, result.images, records(result.trace), strict=True)
        for i, ((each, _), image, record) in enumerate(drawn):
            scales = [
                {**one, "images": len(one["images"])} for one in passes if i in one["images"] and one["run"] != "skip"
            ]
            kept = {"id": each.row.id, **record, "scales": scales}
            done.append(Drawn(each.row.id, each.row.digest(), encoded(image, record), kept))
        yield done


def encoded(image: Image.Image, record: dict[str, Any]) -> bytes:
    """A PNG file of a picture and the record that repeats it."""
    image.save(buffer := BytesIO(), format="png", pnginfo=png_fields(record))
    return buffer.getvalue()
