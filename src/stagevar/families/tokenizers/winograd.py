"""Convolutions of large maps with a quarter of the products, for picture decoders in float32 on the CPU.

A 3x3 kernel has 4x4 outputs in a tile of 6x6 inputs, which takes 144 products of numbers. As polynomials, tile and
kernel are known by their values at 6x6 points, and 36 products of these hold all outputs (Winograd: Arithmetic
Complexity of Computations, 1980; Lavin and Gray: Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308).
With channels each is a matrix product over many tiles. A 2x2 kernel has 5x5 outputs. The result differs from that of
``F.conv2d`` by rounding, about 1e-6 of its size.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

POINTS = 0.0, 5 / 8, -5 / 8, 3 / 2, -3 / 2
"""Where the polynomials are evaluated, and at infinity: of eight sets that were tried that of the smallest error."""

TILE = len(POINTS) + 1
"""Side of a tile."""

CHANNELS = 96
"""Fewest channels for which the products outweigh what the tiles cost."""

POSITIONS = 32 * 32
"""Smallest map for which they outweigh what the kernel costs, whose values are computed at every call."""

TILES = 64
"""Tiles that are computed at once, or half as many as there are channels if that is more: the values of few tiles stay
in the core's own memory, and with many tiles those of a large kernel are read less often."""

ROWS = 8
"""Rows of tiles that are copied with their borders at once."""


def convolved(x_nChw: Tensor, weight_KCrr: Tensor, bias_K: Tensor | None, padding: tuple[int, int] = (1, 1)) -> Tensor:
    """What ``F.conv2d`` gives of a 3x3 or 2x2 kernel, (n, K, h', w'), by tiles where that is faster.

    Tensors without data take ``F.conv2d``, so that operations are counted as those of the convolution; ``scratch`` says
    what memory tiles need.
    """
    if bias_K is None or not pays(x_nChw, weight_KCrr) or isinstance(x_nChw, FakeTensor):
        return F.conv2d(x_nChw, weight_KCrr, bias_K, padding=padding)
    K, C, r, _ = weight_KCrr.shape
    inputs, kernel, outputs = (x_nChw.new_tensor(each) for each in transforms(r))
    values = _twice(kernel, weight_KCrr.permute(2, 3, 1, 0)).view(TILE * TILE, C, K)
    found = [_tiled(x.permute(1, 2, 0), inputs, values, outputs, bias_K, padding) for x in x_nChw]
    return (found[0][None] if len(found) == 1 else torch.stack(found)).permute(0, 3, 1, 2)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether tiles are faster than ``F.conv2d``, and nothing is learnt from the result."""
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    cpu = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    large = x.shape[2] * x.shape[3] >= POSITIONS and min(weight.shape[:2]) >= CHANNELS
    return cpu and large and not learns and weight.shape[2] in (2, 3)


def scratch(weight: Tensor) -> int:
    """Most bytes that tiles take beside the result, about: the values of the kernel, and those of a block's inputs and
    outputs before and behind a step."""
    K, C, r, _ = weight.shape
    kernel, block = K * C, max(TILES, C // 2) * max(K, C)
    return weight.element_size() * max((TILE**2 + TILE * r) * kernel, TILE**2 * (kernel + 3 * block))


def _tiled(
    x_hwC: Tensor, inputs: Tensor, values_PCK: Tensor, outputs: Tensor, bias_K: Tensor, padding: tuple[int, int]
) -> Tensor:
    """The convolved picture (h', w', K)."""
    (C, K), step = values_PCK.shape[1:], len(outputs)
    height, width = (n + 2 * pad - (TILE - step) for n, pad in zip(x_hwC.shape[:2], padding, strict=True))
    down, across = -(-height // step), -(-width // step)
    rows = min(down, max(ROWS, max(TILES, C // 2) // across))
    columns = min(across, max(TILES, C // 2) // rows)
    out = x_hwC.new_empty(down, step, across, step, K)
    for top, left in product(range(0, down, rows), range(0, across, columns)):
        high, wide = min(rows, down - top), min(columns, across - left)
        place = step * top - padding[0], step * left - padding[1]
        block = _block(x_hwC, *place, step * (high - 1) + TILE, step * (wide - 1) + TILE)
        tiles = block.unfold(0, TILE, step).unfold(1, TILE, step).permute(3, 4, 0, 1, 2)
        found = torch.bmm(_twice(inputs, tiles).view(-1, high * wide, C), values_PCK)
        found = _twice(outputs, found.view(TILE, TILE, -1)).view(step, step, high, wide, K)
        torch.add(found.permute(2, 0, 3, 1, 4), bias_K, out=out[top : top + high, :, left : left + wide])
    return out.view(down * step, across * step, K)[:height, :width]


def _twice(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix (a, b) applied to both first axes of (b, b, ...), which exchanges them: (a, a, n), flat behind them.
    Products in batches have the same bits with any number of threads."""
    a, b = matrix.shape
    once = torch.bmm(matrix.expand(b, a, b), x.reshape(b, b, -1))
    return torch.bmm(matrix.expand(a, a, b), once.transpose(0, 1))


def _block(x_hwC: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A part of a map, with zeros wherever there is no map."""
    block = x_hwC.new_zeros(height, width, x_hwC.shape[2])
    part = x_hwC[max(top, 0) : top + height, max(left, 0) : left + width]
    block[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]] = part
    return block


@cache
def transforms(r: int) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """From a line of a tile to its values (6, 6), from a line of a kernel to its values (6, r), and from products of
    values to a line of outputs (7 - r, 6)."""
    points = torch.tensor(POINTS, dtype=torch.float64)

    def powers(count: int) -> Tensor:
        """(6, count): 1, p, p ** 2, ... of each point; of infinity the last one alone."""
        infinity = F.one_hot(torch.tensor([count - 1]), count)
        return torch.cat([points[:, None] ** torch.arange(count), infinity])

    basis, scale = [], torch.ones(TILE, 1, dtype=torch.float64)
    for i in range(TILE):
        polynomial = torch.ones(1, dtype=torch.float64)  # is zero at all other points
        for point in (point for j, point in enumerate(points) if j != i):
            polynomial = F.pad(polynomial, (1, 0)) - point * F.pad(polynomial, (0, 1))
            scale[i] /= points[i] - point if i < len(points) else 1.0
        basis.append(F.pad(polynomial, (0, TILE - len(polynomial))).tolist())
    return basis, (powers(r) * scale).tolist(), powers(TILE - r + 1).T.tolist()
