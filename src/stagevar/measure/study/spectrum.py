"""How low the rank of a stream of rows is: singular-value energy of the centred rows, measured exactly (the quantity
that arXiv 2512.16483 reduces rows by)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ENERGIES = (0.9, 0.96, 0.99)
"""Shares of the centred energy for which ranks are measured."""

SHARES = (0.05, 0.1, 0.2, 0.5)
"""Shares of the rows for which the energy that as many leading singular vectors hold is measured."""

TINY = 1e-12
"""Energy, relative to that of the rows before centring, below which a stream counts as constant."""


def energies(x_RMC: Tensor) -> Tensor:
    """Squared singular values of the centred rows, largest first: (R, M, C) to float64 (R, min(M, C)).

    Eigenvalues of the smaller Gram matrix; those of rows that are all equal are zero.
    """
    place = "cpu" if x_RMC.device.type == "mps" else x_RMC.device  # no float64 there
    x = x_RMC.to(place).double()
    whole = x.square().sum((1, 2))
    x = x - x.mean(1, keepdim=True)
    gram = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
    values = torch.linalg.eigvalsh(gram).flip(1).clamp(min=0)
    return torch.where((values.sum(1) > TINY * whole)[:, None], values, 0.0)


def rank(energies_Rq: Tensor, share: float) -> Tensor:
    """Smallest number of leading singular vectors that hold ``share`` of the energy, (R,); 0 if there is none."""
    total = energies_Rq.sum(1, keepdim=True)
    missing = energies_Rq.cumsum(1) < share * total * (1 - 1e-12)
    return torch.where(total[:, 0] > 0, missing.sum(1) + 1, 0)


def participation(energies_Rq: Tensor) -> Tensor:
    """Participation ratio (sum e)^2 / sum e^2, a soft rank, (R,); 0 if there is no energy."""
    return energies_Rq.sum(1).square() / energies_Rq.square().sum(1).clamp(min=torch.finfo(torch.float64).tiny)


def held(energies_Rq: Tensor, count: int) -> Tensor:
    """Share of the energy in the ``count`` leading singular vectors, (R,); 1 if there is no energy."""
    total = energies_Rq.sum(1)
    return torch.where(total > 0, energies_Rq[:, :count].sum(1) / total.clamp(min=torch.finfo(torch.float64).tiny), 1.0)


def spectrum(x_RMC: Tensor) -> Mapping[str, Tensor]:
    """All figures of a stream (R, M, C) by name, (R,) each.

    ``rank_96``: rank for 96% of the energy over the number of rows M; ``participation``: participation ratio over M;
    ``energy_20``: share of the energy in the leading 20% of M singular vectors (at least one).
    """
    M = x_RMC.shape[1]
    values = energies(x_RMC)
    return {
        **{rank_name(share): rank(values, share) / M for share in ENERGIES},
        "participation": participation(values) / M,
        **{f"energy_{round(share * 100)}": held(values, max(1, round(share * M))) for share in SHARES},
    }


def rank_name(share: float) -> str:
    """``rank_96`` for 0.96."""
    return f"rank_{round(share * 100)}"
