"""A request on its way through the server: what it wants, where it stands, and whom to tell."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from PIL.Image import Image

from stagevar.errors import StagevarError
from stagevar.prepared import Prepared


class State(Enum):
    """Where a request stands: WAITING, then DRAWING, then one of the four ends, which nothing follows."""

    WAITING = "waiting"
    """None of its pictures has been taken into a batch."""
    DRAWING = "drawing"
    """Some of its pictures have been taken; others may wait."""
    DONE = "done"
    """All its pictures were drawn."""
    FAILED = "failed"
    """A picture of it cannot be drawn."""
    LEFT = "left"
    """Its client has gone."""
    LATE = "late"
    """Its time was over."""

    @property
    def ended(self) -> bool:
        return self not in (State.WAITING, State.DRAWING)


@dataclass(frozen=True, slots=True)
class Partial:
    """A picture of a request as it stands after a scale."""

    picture: int
    scale: int
    image: Image


@dataclass(frozen=True, slots=True)
class Finished:
    """A picture of a request."""

    picture: int
    image: Image


Update = Partial | Finished | StagevarError
"""What a client is told: an error is the last word, and so is the last picture."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request in the server.

    Attributes:
        client: who asks; clients take turns.
        model: name of the model.
        prepared: its pictures, which have one size.
        previews: scales after which the client wants to see them.
        deadline: on the clock of ``time.monotonic``.
        tell: takes the updates, in a thread that draws.
        state: where it stands; the scheduler alone changes it.
        waiting: its pictures that are in no batch yet.
        drawn: how many are finished.
        shown: pictures and scales that the client has seen.
    """

    client: str
    model: str
    prepared: list[Prepared]
    previews: frozenset[int]
    deadline: float
    tell: Callable[[Update], object]
    state: State = State.WAITING
    waiting: deque[int] = field(default_factory=deque)
    drawn: int = 0
    shown: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.waiting.extend(range(len(self.prepared)))

    @property
    def kind(self) -> object:
        """Pictures of one kind can share a batch."""
        return self.model, self.prepared[0].schedule


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a request."""

    ticket: Ticket
    index: int

    @property
    def prepared(self) -> Prepared:
        return self.ticket.prepared[self.index]
