"""Drawing the pictures of `stagevar generate`: by one process, or by several that deal out its batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagevar.cli.pictures import Target
from stagevar.cli.progress import pictures
from stagevar.cli.show import Done
from stagevar.engine.loop.trace import ScaleRecord, Trace
from stagevar.engine.loop.trace import write as write_traces
from stagevar.parallel.team import Team, team
from stagevar.pipeline import Pipeline
from stagevar.record import records
from stagevar.request import Request


@dataclass(frozen=True)
class Work:
    """All that one command draws; each process draws its batches of it.

    Attributes:
        pipe: the model.
        requests: one per picture.
        numbers: per picture the number that its file's name is counted up from.
        batches: positions of the pictures that are drawn at once.
        target: where pictures go.
        trace_file: file for the record of all passes, if one is wanted.
    """

    pipe: Pipeline
    requests: list[Request]
    numbers: list[int]
    batches: list[range]
    target: Target
    trace_file: Path | None

    def draw(self, done: Done, *, quiet: bool) -> None:
        """Draw this process's batches. Each is on disk, and noted, before the next one begins. The process that leads
        waits for the others, and ``done`` then has the pictures of all, also if the run fails.

        Raises:
            Elsewhere: another process failed.
            as ``Pipeline.events``; OutputError.
        """
        us = team()
        try:
            self._draw(us, done, quiet=quiet)
            us.finish()
        except BaseException:
            us.part()
            raise
        finally:
            if us.store is not None and us.leads:
                done.pictures[:] = us.found(f"picture.{i}" for i in range(len(self.requests)))
                done.traces[:] = map(_trace, us.found(f"trace.{i}" for i in range(len(self.batches))))
                self._write_traces(done)

    def _draw(self, us: Team, done: Done, *, quiet: bool) -> None:
        size = 1 if self.pipe.group is None else self.pipe.group.size
        index, count = us.ranks.replicas(size)
        mine = list(enumerate(self.batches))[index::count]
        with pictures(sum(len(batch) for _, batch in mine), quiet=quiet) as watched:
            for number, batch in mine:
                requests, result = [self.requests[i] for i in batch], None
                for event in watched(self.pipe.events(requests, batch_size=len(batch), cancelled=us.broken)):
                    result = event.result
                assert result is not None
                if us.ranks.rank % size:
                    continue  # the first process of those that share a network keeps what they draw
                done.traces.append(result.trace)
                for i, image, record in zip(batch, result.images, records(result.trace), strict=True):
                    done.pictures.append({"file": self.target.write(image, record, self.numbers[i]), **record})
                    us.put(f"picture.{i}", done.pictures[-1])
                us.put(f"trace.{number}", result.trace.to_dict())
                if us.store is None:
                    self._write_traces(done)

    def _write_traces(self, done: Done) -> None:
        if self.trace_file is not None and done.traces:
            write_traces(self.trace_file, done.traces)


def _trace(fields: dict[str, Any]) -> Trace:
    """A trace from the plain data that another process has put."""
    return Trace(**fields | {"records": [ScaleRecord.of(each) for each in fields["records"]]})
