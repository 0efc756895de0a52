"""What the server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.grid import Scale
from stagevar.result import ScaleEvent
from stagevar.serve.ticket import State

SECONDS = tuple(0.001 * 2**i for i in range(16))
"""Edges of the histograms of time: 1 ms to 33 s."""


class Metrics(Collector):
    """The numbers of one server, in a registry of their own.

    Args:
        replica: a label of every number, where several servers answer at one address.
    """

    def __init__(self, replica: str = "") -> None:
        self._labels = {"replica": replica} if replica else {}
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "stagevar_requests", "HTTP requests by path and code.", ("path", "code"), registry=registry
        )
        self.seconds = Histogram(
            "stagevar_request_seconds", "Seconds of a HTTP request.", ("path",), registry=registry, buckets=SECONDS
        )
        self.queue = Gauge("stagevar_queue_pictures", "Pictures that wait.", registry=registry)
        self._ended = Counter(
            "stagevar_orders", "Requests for pictures by how they ended.", ("end",), registry=registry
        )
        self._batch = Histogram(
            "stagevar_batch_pictures", "Pictures of a batch.", registry=registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self._batch_seconds = Histogram(
            "stagevar_batch_seconds", "Seconds to draw a batch.", ("model",), registry=registry, buckets=SECONDS
        )
        self._scale = Histogram(
            "stagevar_scale_seconds",
            "Seconds of one pass of pictures that share a plan.",
            ("model", "scale", "stage"),
            registry=registry,
            buckets=SECONDS,
        )
        self._rows = Counter(
            "stagevar_rows",
            "Token rows that went through the network (kept), and those that a plain run has (plain).",
            ("model", "kind"),
            registry=registry,
        )

    def answered(self, path: str, code: int, seconds: float) -> None:
        """A HTTP request has been answered."""
        self.requests.labels(path, str(code)).inc()
        self.seconds.labels(path).observe(seconds)

    def ended(self, state: State) -> None:
        """A request for pictures has reached its last state."""
        self._ended.labels(state.value).inc()

    def drawn(self, model: ScaleModel, last: ScaleEvent, seconds: float) -> None:
        """A batch has been drawn; ``last`` is its last event, with the result."""
        assert last.result is not None
        self._batch.observe(len(last.result.images))
        self._batch_seconds.labels(model.name).observe(seconds)
        plans, kept, plain = dict(zip(last.images, last.plans, strict=True)), 0, 0
        for record in last.result.trace.records:
            plan = next((plans[image] for image in record.images if image in plans), None)
            stage = plan and plan[record.scale].stage
            self._scale.labels(model.name, record.scale, stage or "none").observe(record.milliseconds / 1e3)
            schedule = model.schedule(*last.result.sizes[0])
            kept += record.rows
            plain += 2 * len(record.images) * model.rows(Scale(schedule, record.scale))
        self._rows.labels(model.name, "kept").inc(kept)
        self._rows.labels(model.name, "plain").inc(plain)

    def collect(self) -> Iterator[Metric]:
        """All numbers, labelled."""
        for metric in self.registry.collect():
            metric.samples = [each._replace(labels={**each.labels, **self._labels}) for each in metric.samples]
            yield metric

    def text(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        return generate_latest(self)
