"""The jobs of `stagevar batch` and `stagevar eval`: what their pictures depend on, and who draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagevar.cli.options import Place
from stagevar.cli.progress import job as bar
from stagevar.errors import OptionError

if TYPE_CHECKING:
    from stagevar.jobs.job import Job, Progress

RayOption = Annotated[bool, typer.Option("--ray", help="Draw by workers on Ray, on this machine or a cluster.")]
AddressOption = Annotated[str | None, typer.Option(help="Of a running Ray cluster; implies --ray.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="On Ray; 0 takes one per GPU, or one per two CPUs.")]


@dataclass(frozen=True)
class Workers:
    """Who draws.

    Attributes:
        ray: whether workers on Ray do.
        address: of a running cluster, which implies them.
        count: how many; 0 takes one per device.

    Raises:
        OptionError: a count without Ray.
    """

    ray: bool
    address: str | None
    count: int

    def __post_init__(self) -> None:
        if self.count and not self.remote:
            raise OptionError("--workers are those of Ray; give --ray too")

    @property
    def remote(self) -> bool:
        return self.ray or self.address is not None


def settings_of(place: Place, accelerator: str, seed: int) -> dict[str, Any]:
    """What a job's pictures depend on besides its rows: another run of the job must have the same."""
    return {
        "model": place.model,
        "revision": place.revision,
        "accelerator": accelerator,
        "seed": seed,
        "weights": place.weights and str(place.weights),
        "dtype": place.dtype,
        "quantize": place.quantize,
    }


def draw(job: Job, place: Place, settings: dict[str, Any], workers: Workers, total: int, *, quiet: bool) -> Progress:
    """Draw the rows of a job that are not finished.

    Args:
        job: the rows, and where their pictures go.
        place: the model's, once it has been checked.
        settings: of the job, with its accelerator and seed.
        workers: who draws.
        total: rows of the input.
        quiet: whether no bar is shown.
    """
    from stagevar.jobs.cluster import Cluster
    from stagevar.jobs.drawn import Drawer
    from stagevar.registry import parse

    accelerator, seed = settings["accelerator"], settings["seed"]
    with job.open() as ledger, bar(total, quiet=quiet) as told:
        if workers.remote:
            place.fetch([])
            load = place.settings | {"source": place.model, "accelerator": accelerator}
            with Cluster(load, seed, job.batch_size, workers.count, workers.address or "") as cluster:
                return job.run(ledger, cluster, total, told)
        pipe = place.load()
        pipe.accelerator = parse(accelerator)
        drawer = Drawer(pipe, seed, job.batch_size)
        return job.run(ledger, lambda found: (each for window in found for each in drawer(window)), total, told)
