"""Progress bars on stderr, where somebody looks at it: how much is done, of how much, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from stagevar.jobs.job import Progress as JobProgress
    from stagevar.result import ScaleEvent

Watched = Callable[[Iterator["ScaleEvent"]], Iterator["ScaleEvent"]]


@contextmanager
def pictures(total: int, *, quiet: bool) -> Iterator[Watched]:
    """A bar over all pictures of a command. Yields a function that passes events on and moves the bar."""
    with _bar(quiet) as bar:
        task = bar.add_task("pictures", total=total)
        finished = 0

        def watched(events: Iterator[ScaleEvent]) -> Iterator[ScaleEvent]:
            nonlocal finished
            for event in events:
                last = event.scale + 1 == event.scales
                finished += len(event.images) if last else 0
                part = 0.0 if last else len(event.images) * (event.scale + 1) / event.scales
                bar.update(task, completed=finished + part, description=f"scale {event.grid[0]}x{event.grid[1]}")
                yield event

        yield watched


@contextmanager
def counter(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar over ``total`` things of one kind. Yields a function that takes the number of those that are done."""
    with _bar(quiet) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def counted(*, quiet: bool) -> Iterator[Callable[[object, int, int], None]]:
    """A bar over the pictures of one thing after another. Yields a function that takes what is at hand, how many
    pictures it has, and how many of them are done."""
    with _bar(quiet) as bar:
        task = bar.add_task("pictures")
        yield lambda what, of, done: bar.update(task, completed=done, total=of, description=str(what))


@contextmanager
def best_so_far(total: int, *, quiet: bool) -> Iterator[Callable[[str, int, float], None]]:
    """A bar over the plans of a search. Yields a function that takes what is searched, how far it is, and the best."""
    with _bar(quiet) as bar:
        task = bar.add_task("plans", total=total)
        yield lambda what, done, best: bar.update(task, completed=done, description=f"{what}, best {best:.4f}")


@contextmanager
def job(total: int, *, quiet: bool) -> Iterator[Callable[[JobProgress], None]]:
    """A bar over the rows of a job, with its rate. Yields a function that takes how far the job is."""
    with _bar(quiet) as bar:
        task = bar.add_task("rows", total=total)
        yield lambda at: bar.update(task, completed=at.done, description=f"{at.rate:.1f} pictures/s")


def _bar(quiet: bool) -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
