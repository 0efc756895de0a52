"""Drawing the pictures of `stagevar generate` and `edit`: by one process, or by several that deal out the batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stagevar.cli import show
from stagevar.cli.options import Place, read_file
from stagevar.cli.pictures import Target, require_apart
from stagevar.cli.progress import pictures
from stagevar.cli.show import Done
from stagevar.drawing import read_prompts
from stagevar.engine.loop.trace import ScaleRecord, Trace, is_trace
from stagevar.engine.loop.trace import write as write_traces
from stagevar.failure import explain
from stagevar.parallel.ranks import portions
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


def produce(
    requests: Sequence[Request],
    place: Place,
    output: Path,
    trace: Path | None,
    *,
    batch_size: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw requests, save the pictures, and say what came of it. All is checked before anything is loaded.

    Args:
        requests: one per picture.
        place: of the model.
        output: where pictures go.
        trace: file for the record of all passes.
        batch_size: pictures drawn at once.
        as_json, quiet: how results are told.
    """
    us = team()
    seeds = us.told("seeds", lambda: [request.seed for request in requests])
    requests = [replace(request, seed=own) for request, own in zip(requests, seeds, strict=True)]
    _, replicas = us.ranks.replicas(place.tensor_parallel)
    target = Target.read(output, len(requests))
    record = None if trace is None else read_file(trace, is_trace)
    require_apart(target.kind == "stream", as_json)
    if us.ranks.world > 1:  # one process downloads; alone, ``ready`` checks and loads
        us.told("files", lambda: place.fetch(requests))
    pipe = place.ready(requests)
    work = Work(
        pipe=pipe,
        requests=read_prompts(pipe.model, requests, 16),
        numbers=us.told("names", lambda: target.numbers(requests)),
        batches=portions(len(requests), batch_size, replicas),
        target=target,
        trace_file=record,
    )
    if not us.leads:
        work.draw(show.Done(), quiet=True)
        return
    aside = as_json or target.kind == "stream"
    with show.reporting("picture", as_json=as_json, quiet=quiet or target.kind == "stream") as done:
        with us.failing(explain):
            work.draw(done, quiet=quiet)
        if not quiet:
            show.size(pipe.model, requests[0], aside=aside)
            show.fitted(pipe, requests[0], aside=aside)
            show.fit(pipe, requests[0], min(batch_size, len(requests)), aside=aside)
