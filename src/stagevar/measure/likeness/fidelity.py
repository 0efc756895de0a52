"""How close two pictures are: PSNR, SSIM, edges, layout, and the energy ratio of radial frequency bands."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
MAX_PSNR = 100.0


def psnr(pictures: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per picture; (n, 3, h, w) in [0, 1] to (n,), at most 100 (equal pictures)."""
    error = (pictures - references).double().square().mean((1, 2, 3))
    return (-10 * error.clamp(min=10 ** (-MAX_PSNR / 10)).log10()).float()


def ssim(pictures: Tensor, references: Tensor) -> Tensor:
    """Structural similarity per picture, mean over pixels and colour channels; (n, 3, h, w) in [0, 1] to (n,).

    Gaussian window of 11 pixels and sigma 1.5, no padding, K1 = 0.01, K2 = 0.03 (Wang et al., IEEE TIP 2004).
    """
    x, y = pictures.double(), references.double()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3)).float()


def _blur(x: Tensor) -> Tensor:
    """Gaussian filter of every channel, valid positions only."""
    size = min(WINDOW, x.shape[-2], x.shape[-1])
    offsets = torch.arange(size, dtype=x.dtype, device=x.device) - (size - 1) / 2
    kernel = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    channels = x.shape[1]
    across = F.conv2d(x, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(across, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def edge_agreement(pictures: Tensor, references: Tensor) -> Tensor:
    """Correlation of the Sobel gradient magnitudes per picture; (n, 3, h, w) in [0, 1] to (n,), at most 1."""
    return _correlation(_edges(pictures), _edges(references))


def contour_agreement(pictures: Tensor, references: Tensor) -> Tensor:
    """``edge_agreement`` at half the resolution, which does not see the finest texture."""
    halves = [F.avg_pool2d(x, 2) if min(x.shape[-2:]) > 1 else x for x in (pictures, references)]
    return edge_agreement(*halves)


def _edges(pictures: Tensor) -> Tensor:
    """Gradient magnitude of the grey picture, valid positions only; as it is where a picture is too small for it."""
    grey = pictures.double().mean(1, keepdim=True)
    if min(grey.shape[-2:]) < 3:
        return grey
    across = grey.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    return F.conv2d(grey, torch.stack([across, across.T])[:, None]).square().sum(1).sqrt()


def layout_agreement(pictures: Tensor, references: Tensor, cells: int = 16) -> Tensor:
    """Correlation of the colours after averaging to at most ``cells`` per side; (n, 3, h, w) to (n,), at most 1."""
    rows, columns = (max(1, min(cells, side // 4)) for side in pictures.shape[-2:])
    return _correlation(*(F.adaptive_avg_pool2d(x.double(), (rows, columns)) for x in (pictures, references)))


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's coefficient per picture, (n,); where one is constant, 1 if both are and else 0."""
    x, y = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (x, y))
    norms = x.norm(dim=1) * y.norm(dim=1)
    alike = (x - y).abs().amax(1) < 1e-9
    return torch.where(alike, 1.0, (x * y).sum(1) / norms.clamp(min=1e-12)).float()


def band_energy(pictures: Tensor, bands: int = 4) -> Tensor:
    """Spectral energy in radial bands, octaves down from the Nyquist frequency; (n, 3, h, w) to (n, bands), lowest
    band first. The mean of a picture belongs to no band."""
    h, w = pictures.shape[-2:]
    spectrum = torch.fft.fft2(pictures.double(), norm="ortho").abs().square().sum(1)
    y, x = torch.fft.fftfreq(h, device=pictures.device), torch.fft.fftfreq(w, device=pictures.device)
    radius = torch.sqrt(y[:, None] ** 2 + x[None] ** 2) / 0.5
    edges = [0.0, *(2.0 ** (k - bands + 1) for k in range(bands - 1)), 2.0]
    masks = torch.stack([(radius > low) & (radius <= high) for low, high in pairwise(edges)])
    return torch.einsum("nhw,bhw->nb", spectrum, masks.double()).float()


def band_ratio(pictures: Tensor, references: Tensor, bands: int = 4) -> Tensor:
    """Energy of ``pictures`` over that of ``references`` per radial band, (n, bands): below 1 detail was lost, above 1
    speckle was added."""
    return band_energy(pictures, bands) / band_energy(references, bands).clamp(min=1e-12)
