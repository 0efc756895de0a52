"""The table of the page on clusters: simulated seconds of requests by replicas and load."""

from __future__ import annotations

from stagevar.measure.markdown import table
from stagevar.serve.forecast import Forecast

REPLICAS, LOADS, REQUESTS = (1, 2, 4, 8), (0.25, 0.5, 0.75, 0.95, 1.1), 8000


def forecast() -> str:
    head = ["replicas", "load", "requests per unit", "p50", "p95", "p99", "refused", "pictures of a batch"]
    return table(head, [_row(replicas, load) for replicas in REPLICAS for load in LOADS])


def _row(replicas: int, load: float) -> list[str]:
    machines = Forecast(alone=1.0, further=0.2, replicas=replicas)
    rate = load * machines.capacity
    found = machines.run(rate, REQUESTS)
    seconds = (f"{value:.2f}" for value in (found.p50, found.p95, found.p99))
    return [str(replicas), f"{load:.0%}", f"{rate:.1f}", *seconds, f"{found.refused:.1%}", f"{found.pictures:.1f}"]
