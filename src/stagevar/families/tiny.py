"""Small networks with random weights: every path of a family in milliseconds, for tests and demonstrations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import UnknownModelError
from stagevar.families.catalogue import FAMILIES


def tiny(family: str, seed: int = 0, **changes: Any) -> ScaleModel:
    """A random network of a family. Pictures are noise, yet every prompt, seed and plan draws another one.

    Args:
        family: one of the catalogue's.
        seed: of the weights.
        changes: fields of the family's config to replace.

    Raises:
        UnknownModelError: no tiny network of that family.
    """
    builders = {name: row.tiny for name, row in FAMILIES.items() if row.tiny is not None}
    if family not in builders:
        raise UnknownModelError(f"no tiny network of family {family!r}; there is {', '.join(builders)}")
    model = builders[family](changes)
    randomize(model, seed)
    return model.eval()


def randomize(model: nn.Module, seed: int) -> None:
    """Normal weights that keep the size of their input, gains around 1, other vectors small; then freeze them."""
    generator = torch.Generator().manual_seed(seed)
    gains = {id(m.weight) for m in model.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm | nn.RMSNorm)}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in gains:
            value = 1 + 0.1 * noise
        elif name.endswith("log_temperature"):
            value = math.log(4.0) + 0.1 * noise
        elif parameter.dim() == 1:
            value = 0.1 * noise
        else:
            value = noise / math.sqrt(parameter[0].numel())
        parameter.data = value
    model.requires_grad_(False)
