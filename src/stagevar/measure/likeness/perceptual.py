"""Structural likeness by features of pretrained classifiers: LPIPS (arXiv 1801.03924) and DISTS (arXiv 2004.07728).

Both compare the activations that two pictures cause in a network trained on ImageNet: LPIPS position by position,
DISTS by mean and covariance of whole channels, so that texture may move. Weights are read in their published layouts:
the trunk as torchvision saves it (``features.N.weight``), the learned weights as the authors do, in one file or two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.errors import ForeignCheckpointError
from stagevar.loading.fill import fill
from stagevar.loading.nesting import nests
from stagevar.loading.read import read_state
from stagevar.measure.likeness.scorer import Scorer

LEAST, MOST = 64, 256
"""Pixels of a picture's shorter side: smaller ones are enlarged, since the trunks halve them up to five times; larger
ones are reduced for DISTS, whose weights were learned at that size."""

ALEXNET_TAPS, VGG_TAPS = (1, 4, 7, 9, 11), (3, 8, 15, 22, 29)
"""Layers whose outputs are compared: of AlexNet each ReLU, of VGG16 the last ReLU before each halving."""
ALEXNET_WIDTHS, VGG_WIDTHS = (64, 192, 384, 256, 256), (64, 128, 256, 512, 512)
"""Channels there."""


class L2Pool(nn.Module):
    """Halves both sides: root of the mean of squares under a 3x3 window, smooth where max pooling aliases."""

    def forward(self, x_nChw: Tensor) -> Tensor:
        line = x_nChw.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(line, line).expand(x_nChw.shape[1], 1, 3, 3)
        return (F.conv2d(x_nChw.square(), kernel, stride=2, padding=1, groups=x_nChw.shape[1]) + 1e-12).sqrt()


def alexnet() -> nn.Sequential:
    """The convolutions of AlexNet, numbered as torchvision numbers them."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def vgg16(pool: Callable[[], nn.Module]) -> nn.Sequential:
    """The convolutions of VGG16, numbered as torchvision numbers them, with any layer that halves."""
    layers: list[nn.Module] = []
    channels = 3
    for width, convolutions in zip(VGG_WIDTHS, (2, 2, 3, 3, 3), strict=True):
        layers += [pool()] if layers else []
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


class Lpips(nn.Module):
    """A ``Scorer``: one minus the learned distance of the trunk's normalised features."""

    def __init__(self, features: nn.Sequential, taps: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.features, self.taps = features, taps
        self.lin = nn.ParameterList(torch.zeros(1, width, 1, 1) for width in widths)

    @torch.inference_mode()
    def forward(self, pictures: Tensor, references: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] each to (n,), at most 1. One pair at a time, since features of large pictures are
        large."""
        pairs = zip(pictures.split(1), references.split(1), strict=True)
        return 1 - torch.cat([self._distance(one, other) for one, other in pairs]).cpu()

    def _distance(self, *pair: Tensor) -> Tensor:
        distance = torch.zeros(1, device=self.lin[0].device)
        for weights, one, other in zip(self.lin, *map(self._activations, pair), strict=True):
            apart = (F.normalize(one, eps=1e-10) - F.normalize(other, eps=1e-10)).square()
            distance = distance + (weights * apart).sum(1).mean((1, 2))
        return distance

    def _activations(self, picture: Tensor) -> list[Tensor]:
        x = 2 * _fit(picture.to(self.lin[0]), LEAST) - 1
        shift, scale = x.new_tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[..., None, None]
        return _tapped(self.features, self.taps, (x - shift) / scale)


class Dists(nn.Module):
    """A ``Scorer``: learned mean, over all channels, of the likeness of their means and of their variation."""

    def __init__(self, features: nn.Sequential, taps: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.features, self.taps = features, taps
        channels = 3 + sum(widths)  # those of the picture itself come first
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    @torch.inference_mode()
    def forward(self, pictures: Tensor, references: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] each to (n,), at most 1; one pair at a time."""
        pairs = zip(pictures.split(1), references.split(1), strict=True)
        return torch.cat([self._likeness(one, other) for one, other in pairs]).cpu()

    def _likeness(self, *pair: Tensor) -> Tensor:
        texture, structure = [], []
        for one, other in zip(*map(self._activations, pair), strict=True):
            mean, mean_other = one.mean((2, 3)), other.mean((2, 3))
            one, other = one - mean[..., None, None], other - mean_other[..., None, None]
            texture.append(_alike(mean * mean_other, mean.square(), mean_other.square()))
            # Of centred features: a difference of large means would not be exactly 1 for equal pictures.
            products = ((a * b).mean((2, 3)) for a, b in ((one, other), (one, one), (other, other)))
            structure.append(_alike(*products))
        alpha, beta = self.alpha.flatten(1), self.beta.flatten(1)
        weighted = (alpha * torch.cat(texture, 1) + beta * torch.cat(structure, 1)).sum(1)
        return weighted / (alpha.sum() + beta.sum())

    def _activations(self, picture: Tensor) -> list[Tensor]:
        x = _fit(picture.to(self.alpha), LEAST, MOST)
        mean, std = x.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        return [x, *_tapped(self.features, self.taps, (x - mean) / std)]


def _alike(both: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Twice a product over the sum of the squares, 1 for equal factors; as in SSIM."""
    return (2 * both + 1e-6) / (one + other + 1e-6)


def _tapped(layers: nn.Sequential, taps: Sequence[int], x: Tensor) -> list[Tensor]:
    """The outputs of some layers."""
    found = []
    for number, layer in enumerate(layers):
        x = layer(x)
        if number in taps:
            found.append(x)
    return found


def _fit(x: Tensor, least: int, most: int | None = None) -> Tensor:
    """Pictures resized so that the shorter side is in range, in proportion; as they are if it is."""
    h, w = x.shape[-2:]
    side = max(min(h, w, most or h), least)
    if side == min(h, w):
        return x
    size = round(h * side / min(h, w)), round(w * side / min(h, w))
    return F.interpolate(x, size, mode="bilinear", antialias=True)


def lpips(files: Sequence[Path], device: str | torch.device = "cpu") -> Scorer:
    """Likeness by LPIPS with AlexNet or VGG16, whichever the linear layers (``lin0.model.1.weight``) belong to.

    Args:
        files: one with linear layers and trunk, or one of each.
        device: where it computes.

    Raises:
        MissingFileError: a file is not there.
        ForeignCheckpointError, ShapeError: tensors missing or of another shape.
        UnsafePickleError: a file would have to run code.
    """
    state = _read(files)
    if "lin.1" not in state:
        raise ForeignCheckpointError(f"{_names(files)}: no linear layers of LPIPS (lin1.model.1.weight and others)")
    with torch.device("meta"):
        if state["lin.1"].numel() == ALEXNET_WIDTHS[1]:
            network = Lpips(alexnet(), ALEXNET_TAPS, ALEXNET_WIDTHS)
        else:
            network = Lpips(vgg16(lambda: nn.MaxPool2d(2)), VGG_TAPS, VGG_WIDTHS)
    fill(network, state, source=_names(files))
    return network.to(device)


def dists(files: Sequence[Path], device: str | torch.device = "cpu") -> Scorer:
    """Likeness by DISTS.

    Args:
        files: one with ``alpha``, ``beta`` and the trunk of VGG16, or one of each.
        device: where it computes.

    Raises:
        as ``lpips``.
    """
    state = _read(files)
    if "alpha" not in state:
        raise ForeignCheckpointError(f"{_names(files)}: no weights of DISTS (alpha and beta)")
    with torch.device("meta"):
        network = Dists(vgg16(L2Pool), VGG_TAPS, VGG_WIDTHS)
    fill(network, state, source=_names(files))
    return network.to(device)


_LAYOUTS = (
    (re.compile(r"(?:features|net\.slice\d|stage\d)\.(\d+\.(?:weight|bias))"), "features."),
    (re.compile(r"lin(\d)\.model\.1\.weight"), "lin."),
    (re.compile(r"(alpha|beta)"), ""),
)
"""Published names (of torchvision's classifiers, and of LPIPS and DISTS as their authors save them whole), and what
stands before their last part here."""


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors that a scorer needs by their names here; classifiers and constants are left out."""
    state: dict[str, Tensor] = {}
    for path in files:
        for theirs, tensor in (pair for nest in nests(read_state(path)) for pair in nest.tensors.items()):
            for pattern, prefix in _LAYOUTS:
                if match := pattern.fullmatch(theirs):
                    state[prefix + match[1]] = tensor
    if not any(name.startswith("features.") for name in state):
        raise ForeignCheckpointError(
            f"{_names(files)}: no convolutions (features.0.weight and others); give torchvision's AlexNet or VGG16 "
            "file besides the learned weights"
        )
    return state


def _names(files: Sequence[Path]) -> str:
    return " and ".join(map(str, files))
