"""A model as a pipeline holds it: on one device, perhaps within a limit of memory, or shared by several processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import usual
from stagevar.errors import OptionError
from stagevar.loading.sources import load, resolve
from stagevar.memory.limit import offload_within

if TYPE_CHECKING:
    from stagevar.parallel.group import Group


@usual()
def loaded(
    source: str | Path, limit: int | None, devices: int, **options: Any
) -> tuple[ScaleModel, dict[str, Any], Group | None]:
    """A model, where it came from, and the processes that share it.

    Args:
        source: as ``sources.load`` takes it, and ``options`` too.
        limit: bytes that drawing may need; if it must, the text encoder then waits on the CPU.
        devices: number of processes that share the network.

    Raises:
        as ``Pipeline.from_pretrained``.
    """
    weights, where = options["weights"], options["where"]
    origin = {"source": str(source), "weights": None if weights is None else str(weights), "revision": where.revision}
    if devices == 1:
        if limit is not None:
            options["offload_text_encoder"] = offload_within(resolve(source, weights, where), limit, **options)
        return load(source, **options), origin, None
    from stagevar.loading.split import load_split

    check_alone(quantize=options["quantize"] or None, max_memory=limit)
    model, group = load_split(source, devices, **options)
    return model, origin | {"tensor_parallel": devices}, group


def check_alone(**settings: object) -> None:
    """Raise if a setting is given that only a network on one device has.

    Raises:
        OptionError
    """
    for name, value in settings.items():
        if value is not None:
            raise OptionError(f"{name} and tensor_parallel cannot be combined; leave one of them out")
