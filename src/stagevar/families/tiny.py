"""Small networks with random weights. Tests and demonstrations run all code of a family on them in milliseconds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import UnknownModelError
from stagevar.families.catalogue import FAMILIES


def tiny(family: str, seed: int = 0, **changes: Any) -> ScaleModel:
    """A small network of a family with random weights. It draws noise, but a different picture for every prompt, seed
    and plan.

    Args:
        family: name of a family in the catalogue.
        seed: seed of the random weights.
        changes: fields of the family's config to replace.

    Raises:
        UnknownModelError: the family has no tiny network.
    """
    builders = {name: row.tiny for name, row in FAMILIES.items() if row.tiny is not None}
    if family not in builders:
        raise UnknownModelError(f"no tiny network of family {family!r}; there is {', '.join(builders)}")
    model = builders[family](changes)
    randomize(model, seed)
    return model.eval()


def randomize(model: nn.Module, seed: int) -> None:
    """Set all parameters to random numbers and freeze them.

    Matrices and kernels get normal numbers whose variance is 1 / (entries per row), so that a layer's output is about
    as large as its input. Gains of norms lie around 1, logarithms of temperatures around log 4, other vectors around 0.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    gains = {id(m.weight) for m in model.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, device=device)
        if id(parameter) in gains:
            value = 1 + 0.1 * noise
        elif name.endswith("log_temperature"):
            value = math.log(4.0) + 0.1 * noise
        elif parameter.dim() == 1:
            value = 0.1 * noise
        else:
            value = noise / math.sqrt(parameter[0].numel())
        parameter.data = value.to(parameter.dtype)
    model.requires_grad_(False)
