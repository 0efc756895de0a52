"""How long requests would take: a simulation of replicas, their queues and their batches, without drawing anything.

It follows ``scheduler.py`` with one lane in when a batch begins, and Ray in which replica gets a request: the less busy
of two that are drawn at random. Requests are of one picture and come at random times, so many a second on average.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random
from statistics import fmean, quantiles


@dataclass(frozen=True, slots=True)
class Latency:
    """What a simulation found.

    Attributes:
        mean, p50, p95, p99: seconds from a request to its picture.
        refused: share of the requests that found a full queue.
        busy: share of the time that replicas draw.
        pictures: mean pictures of a batch.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    refused: float
    busy: float
    pictures: float


@dataclass(frozen=True)
class Forecast:
    """A server of one model on machines that are alike.

    Attributes:
        alone: seconds to draw a batch of one picture.
        further: seconds that each further picture of a batch adds.
        replicas: how many there are.
        batch, wait, queue: as in ``Scheduler``, for each replica.
    """

    alone: float
    further: float
    replicas: int = 1
    batch: int = 16
    wait: float = 0.01
    queue: int = 64

    def seconds(self, pictures: int) -> float:
        """Seconds to draw a batch."""
        return self.alone + self.further * (pictures - 1)

    @property
    def capacity(self) -> float:
        """Pictures per second when every batch is full."""
        return self.replicas * self.batch / self.seconds(self.batch)

    def run(self, rate: float, requests: int = 10_000, seed: int = 0) -> Latency:
        """Requests at ``rate`` a second."""
        random, replicas = Random(seed), [_Replica() for _ in range(self.replicas)]
        events: list[tuple[float, int, _Replica | None]] = []
        heappush(events, (random.expovariate(rate), 0, None))
        now, left, refused = 0.0, requests, 0
        for order in count(1):
            if not events:
                break
            now, _, at = heappop(events)
            if at is None:
                left -= 1
                if left:
                    heappush(events, (now + random.expovariate(rate), order, None))
                at = min(random.sample(replicas, min(2, len(replicas))), key=lambda each: each.load)
                if len(at.waiting) >= self.queue:
                    refused += 1
                    continue
                at.waiting.append(now)
            if (next_look := self._look(at, now)) is not None:
                heappush(events, (next_look, order, at))
        seconds = [each for replica in replicas for each in replica.seconds]
        cuts = quantiles(seconds, n=100, method="inclusive")
        busy = sum(replica.busy for replica in replicas) / (now * len(replicas))
        batches = sum(replica.batches for replica in replicas)
        return Latency(fmean(seconds), cuts[49], cuts[94], cuts[98], refused / requests, busy, len(seconds) / batches)

    def _look(self, replica: _Replica, now: float) -> float | None:
        """Begin a batch if it is time for one.

        Returns:
            When to look at the replica again; None if something else will be looked at before.
        """
        if now < replica.free:
            return None
        replica.drawing = 0
        if not replica.waiting:
            replica.until = None
            return None
        if replica.until is None:
            replica.until = now + self.wait
        if len(replica.waiting) < min(replica.company, self.batch) and now < replica.until:
            return replica.until
        pictures = min(len(replica.waiting), self.batch)
        replica.begins(pictures, now + self.seconds(pictures), now)
        return replica.free


@dataclass(eq=False)
class _Replica:
    """One replica at a moment.

    Attributes:
        waiting: when the requests of its queue came.
        drawing: pictures of the batch that is being drawn, and ``free`` when that ends.
        company: pictures of the last batch.
        until: when the next batch begins at the latest, if something waits.
        seconds: of the requests that it has answered or is drawing.
        busy, batches: seconds of drawing, and batches, so far.
    """

    waiting: deque[float] = field(default_factory=deque)
    drawing: int = 0
    free: float = 0.0
    company: int = 1
    until: float | None = None
    seconds: list[float] = field(default_factory=list)
    busy: float = 0.0
    batches: int = 0

    @property
    def load(self) -> int:
        return len(self.waiting) + self.drawing

    def begins(self, pictures: int, end: float, now: float) -> None:
        self.seconds += [end - self.waiting.popleft() for _ in range(pictures)]
        self.drawing = self.company = pictures
        self.until, self.free = None, end
        self.busy, self.batches = self.busy + end - now, self.batches + 1
