"""What the tests of learned scorers share."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def pictures(n: int = 2, size: tuple[int, int] = (40, 24), seed: int = 0) -> Tensor:
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))
