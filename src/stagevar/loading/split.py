"""Loading one network over the devices of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.families.family import TextReader
from stagevar.loading.place import CPU
from stagevar.loading.sources import fetch, load, outline, resolve
from stagevar.loading.where import Where
from stagevar.parallel.group import Group
from stagevar.parallel.ranks import Ranks
from stagevar.parallel.tensor import check_split, split


def load_split(
    source: str | Path,
    devices: int,
    *,
    weights: str | Path | None,
    where: Where,
    device: torch.device,
    dtype: torch.dtype,
    **place: Any,
) -> tuple[ScaleModel, Group]:
    """This process's share of a model, and the processes that hold the others. One process downloads.

    Args:
        source, weights, where: as ``sources.resolve`` takes them.
        devices: number of processes that share the network.
        device: this process's device.
        dtype: of the transformer's blocks and the text encoder.
        place: other fields of ``place.Placement``.

    Raises:
        OptionError: the processes or the model's heads cannot be divided by ``devices``.
        as ``sources.load``.
    """
    Ranks.here().replicas(devices)
    meant = resolve(source, weights, where)
    check_split(outline(meant), devices)
    group = Group.join(devices, device)
    group.first(lambda: fetch(meant, text=place["text_encoder"]))
    model = load(source, weights=weights, where=where, dtype=dtype, device=CPU, as_stored=True, **place)
    split(model, group.mesh, device, dtype)
    if model.text_encoder is not None:
        for encoder in cast(TextReader, model.text_encoder).encoders:
            encoder.to(device)
    return model, group
