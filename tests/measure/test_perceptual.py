"""LPIPS and DISTS against their definitions, and learned scorers in a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagevar.errors import ForeignCheckpointError, MissingFileError, ShapeError
from stagevar.families.tiny import tiny
from stagevar.loading.save import save_model
from stagevar.measure.likeness.embeddings import IMAGENET, clip, dino
from stagevar.measure.likeness.perceptual import Dists, L2Pool, Lpips, dists, lpips
from stagevar.measure.study.plots import LABELS
from stagevar.measure.study.report import markdown
from stagevar.measure.study.stages import profile
from stagevar.measure.study.study import study
from stagevar.pipeline import Pipeline

from .learned_scorers_parts import pictures
from .study_parts import captions

ALEXNET = {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3)}
VGG = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512]


# --- LPIPS and DISTS ---------------------------------------------------------


def one_layer(weight: float) -> nn.Sequential:
    """A trunk of one channel, ``relu(weight * green)``."""
    layer = nn.Conv2d(3, 1, 1)
    layer.weight.data = torch.tensor([0.0, weight, 0.0]).view(1, 3, 1, 1)
    layer.bias.data.zero_()
    return nn.Sequential(layer, nn.ReLU())


def test_lpips_by_hand() -> None:
    """Two layers' features are 1 where they are positive, after their normalisation; weighted, averaged, summed."""
    x, y = torch.full((1, 3, 64, 64), 0.9), torch.full((1, 3, 64, 64), 0.9)
    y[:, 1, :16] = 0.1  # the scaled green is negative there: a quarter of the features is 0 and not 1
    trunk = nn.Sequential(*one_layer(2.0), nn.AvgPool2d(64))
    scorer = Lpips(trunk, (1, 2), (1, 1))
    scorer.lin[0].data.fill_(0.5)
    scorer.lin[1].data.fill_(3.0)
    assert scorer(x, y).tolist() == pytest.approx([1 - 0.5 / 4])  # the average has both pictures at 1
    assert scorer(x, x).tolist() == [1]


def test_dists_by_hand() -> None:
    """Green of x is 0.8 and 0.4, one half each; that of y 0.4 and 0.8: equal means, opposite variation."""
    x = torch.full((1, 3, 64, 64), 0.5)
    y = x.clone()
    x[:, 1, :32], x[:, 1, 32:] = 0.8, 0.6
    y[:, 1, :32], y[:, 1, 32:] = 0.6, 0.8
    scorer = Dists(one_layer(1.0), (1,), (1,))
    scorer.alpha.data[:] = torch.tensor([1.0, 2, 1, 3]).view(1, 4, 1, 1)
    scorer.beta.data[:] = torch.tensor([1.0, 4, 1, 7]).view(1, 4, 1, 1)
    opposite = (-2 * 0.01 + 1e-6) / (2 * 0.01 + 1e-6)
    features = 0.01 / 0.224**2
    turned = (-2 * features + 1e-6) / (2 * features + 1e-6)
    assert scorer(x, y).tolist() == pytest.approx([(7 + 2 + 4 * opposite + 7 * turned) / 20], abs=1e-4)
    assert scorer(x, x).tolist() == pytest.approx([1])


def test_l2_pooling_is_the_root_of_a_weighted_mean_of_squares() -> None:
    x = torch.zeros(1, 2, 4, 4)
    x[0, 0, 2, 2], x[0, 1, 1, 2] = 3, 4
    found = L2Pool()(x)
    assert found.shape == (1, 2, 2, 2)
    assert found[0, 0].flatten().tolist() == pytest.approx([0, 0, 0, 1.5], abs=1e-5)
    assert found[0, 1].flatten().tolist() == pytest.approx([0, 2**0.5, 0, 2**0.5], abs=1e-5)


def convolution(number: int, inner: int, outer: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    weight = torch.randn(outer, inner, size, size, generator=generator) * (2 / (inner * size * size)) ** 0.5
    return {
        f"features.{number}.weight": weight,
        f"features.{number}.bias": 0.1 * torch.randn(outer, generator=generator),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random trunks as torchvision names them, and learned weights as the authors do."""
    folder = tmp_path_factory.mktemp("perceptual")
    generator = torch.Generator().manual_seed(0)
    alexnet = {name: value for n, shape in ALEXNET.items() for name, value in convolution(n, *shape).items()}
    vgg: dict[str, Tensor] = {}
    number, inner = 0, 3
    for width in VGG:
        vgg |= convolution(number, inner, width, 3) if width else {}
        number, inner = number + (2 if width else 1), width or inner
    states: dict[str, dict[str, Tensor]] = {
        "alexnet": alexnet | {"classifier.1.weight": torch.zeros(2, 2)},
        "vgg16": vgg | {"classifier.0.bias": torch.zeros(2)},
        "dists": {name: torch.rand(1, 1475, 1, 1, generator=generator) for name in ("alpha", "beta")},
    }
    for name, widths in (("alex", (64, 192, 384, 256, 256)), ("vgg", (64, 128, 256, 512, 512))):
        states[name] = {
            f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for k, width in enumerate(widths)
        }
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in states}


def vgg_activations(state: dict[str, Tensor], x: Tensor, pool: Callable[[Tensor], Tensor]) -> list[Tensor]:
    number, found = 0, []
    for width in [*VGG, 0]:
        if width:
            x = F.relu(F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1))
        else:
            found.append(x)
            x = pool(x)
        number += 2 if width else 1
    return found


def alexnet_activations(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    found = []
    for number, (stride, padding, pooled) in {0: (4, 2, False), 3: (1, 2, True), 6: (1, 1, True)}.items():
        x = F.max_pool2d(x, 3, 2) if pooled else x
        weights = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
        x = F.relu(F.conv2d(x, *weights, stride=stride, padding=padding))
        found.append(x)
    for number in (8, 10):
        x = F.relu(F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1))
        found.append(x)
    return found


@pytest.mark.parametrize(("trunk", "learned"), [("alexnet", "alex"), ("vgg16", "vgg")])
def test_lpips_is_the_distance_that_its_paper_defines(files: dict[str, Path], trunk: str, learned: str) -> None:
    x, y = pictures(size=(66, 80), seed=0), pictures(size=(66, 80), seed=1)
    scorer = lpips([files[learned], files[trunk]])
    assert scorer(x, x).tolist() == [1, 1]
    convolutions, linear = torch.load(files[trunk]), torch.load(files[learned])
    shift, scale = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]]).view(2, 3, 1, 1)
    inputs = [((2 * z - 1) - shift) / scale for z in (x, y)]
    if trunk == "alexnet":
        features = [alexnet_activations(convolutions, z) for z in inputs]
    else:
        features = [vgg_activations(convolutions, z, lambda z: F.max_pool2d(z, 2)) for z in inputs]
    distance = torch.zeros(2)
    for k, pair in enumerate(zip(*features, strict=True)):
        one, other = (z / z.pow(2).sum(1, keepdim=True).sqrt() for z in pair)
        distance += F.conv2d((one - other) ** 2, linear[f"lin{k}.model.1.weight"]).mean((1, 2, 3))
    assert scorer(x, y).tolist() == pytest.approx((1 - distance).tolist(), abs=1e-4)


def test_dists_is_the_likeness_that_its_paper_defines(files: dict[str, Path]) -> None:
    x, y = pictures(size=(66, 80), seed=0), pictures(size=(66, 80), seed=1)
    scorer = dists([files["dists"], files["vgg16"]])
    assert scorer(x, x).tolist() == pytest.approx([1, 1])
    convolutions, learned = torch.load(files["vgg16"]), torch.load(files["dists"])
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in IMAGENET)
    features = [[z, *vgg_activations(convolutions, (z - mean) / std, L2Pool())] for z in (x, y)]
    parts = []
    for one, other in zip(*features, strict=True):
        m, n, v, w = one.mean((2, 3)), other.mean((2, 3)), *(z.var((2, 3), correction=0) for z in (one, other))
        covariance = (one * other).mean((2, 3)) - m * n
        parts.append(((2 * m * n + 1e-6) / (m**2 + n**2 + 1e-6), (2 * covariance + 1e-6) / (v + w + 1e-6)))
    texture, structure = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    alpha, beta = learned["alpha"].view(1, -1), learned["beta"].view(1, -1)
    expected = ((alpha * texture).sum(1) + (beta * structure).sum(1)) / (alpha.sum() + beta.sum())
    assert scorer(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_one_file_may_hold_all_under_the_authors_names(files: dict[str, Path], tmp_path: Path) -> None:
    x, y = pictures(1, seed=0), pictures(1, seed=1)
    for load, learned, trunk, prefix in ((lpips, "alex", "alexnet", "net.slice1"), (dists, "dists", "vgg16", "stage1")):
        merged = torch.load(files[learned]) | torch.load(files[trunk])
        torch.save(merged, tmp_path / "merged.pth")
        torch.save(
            {k.replace("features", prefix): v for k, v in merged.items()} | {"scaling_layer.shift": torch.ones(1)},
            tmp_path / "whole.pth",
        )
        expected = load([files[learned], files[trunk]])(x, y)
        for name in ("merged.pth", "whole.pth"):
            assert torch.equal(load([tmp_path / name])(x, y), expected)


def test_pictures_too_small_or_too_large_are_resized(files: dict[str, Path]) -> None:
    x, y = pictures(1, (20, 36), 0), pictures(1, (20, 36), 1)
    large = [F.interpolate(z, (64, 115), mode="bilinear", antialias=True) for z in (x, y)]
    scorer = lpips([files["alex"], files["alexnet"]])
    assert torch.equal(scorer(x, y), scorer(*large))
    wide = [F.interpolate(z, (320, 512), mode="bilinear") for z in (x, y)]
    reduced = [F.interpolate(z, (256, 410), mode="bilinear", antialias=True) for z in wide]
    light = Dists(one_layer(1.0), (1,), (1,))
    light.alpha.data.fill_(1)
    assert torch.allclose(light(*wide), light(*reduced))
    assert not torch.equal(scorer(*wide), scorer(*reduced))


def test_weights_that_do_not_fit(files: dict[str, Path], tmp_path: Path) -> None:
    torch.save({"alpha": torch.zeros(1, 5, 1, 1), "beta": torch.zeros(1, 5, 1, 1)}, tmp_path / "short.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for load, names, error, part in (
        (lpips, ["alex"], ForeignCheckpointError, "features"),
        (lpips, ["alexnet"], ForeignCheckpointError, "lin1"),
        (lpips, ["vgg", "alexnet"], ForeignCheckpointError, "vgg.*missing"),
        (dists, ["vgg16"], ForeignCheckpointError, "alpha"),
        (dists, ["dists"], ForeignCheckpointError, "features"),
        (dists, ["short", "vgg16"], ShapeError, "alpha"),
        (dists, ["text"], ForeignCheckpointError, "text.pth"),
        (lpips, ["none"], MissingFileError, "none.pth"),
    ):
        with pytest.raises(error, match=part):
            load([files.get(name, tmp_path / f"{name}.pth") for name in names])


# --- in a study --------------------------------------------------------------


@pytest.mark.parametrize("family", ["scenes", "infinity"])
def test_scorers_become_curves_of_any_model(
    family: str, clip_folder: Path, vit_folder: Path, files: dict[str, Path]
) -> None:
    scorers = {
        "clip": clip(clip_folder),
        "dino": dino(vit_folder),
        "lpips": lpips([files["alex"], files["alexnet"]]),
    }
    found = study(Pipeline(tiny(family)), captions(2), rank_prompts=1, scorers=scorers)
    for name, kind in (("clip", "semantic"), ("dino", "semantic"), ("lpips", "structural")):
        curve = found.curves[name]
        assert curve.kind == kind and curve.mean[-1] == pytest.approx(1) and curve.mean[0] < 1
        assert f"| {LABELS[name]} |" in markdown(found, profile(found))
    assert profile(found).semantic.rule.curves == (("objects",) if family == "scenes" else ("clip",))


def test_study_takes_their_weights(
    command: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    clip_folder: Path,
    vit_folder: Path,
    files: dict[str, Path],
) -> None:
    save_model(tiny("scenes"), tmp_path / "model")  # type: ignore[arg-type]
    arguments = ["study", "-m", "model", "--captions", 1, "--rank-prompts", 1]
    weights = ["--clip", clip_folder, "--dino", vit_folder, "--lpips", files["alex"], "--lpips", files["alexnet"]]
    code, out, _ = command(*arguments, *weights, "--dists", files["dists"], "--dists", files["vgg16"], "--json")
    assert code == 0
    curves = json.loads(out)["curves"]
    assert [curves[name]["mean"][-1] for name in ("clip", "dino", "lpips", "dists")] == pytest.approx([1] * 4)
    code, _, line = command(*arguments, "--clip", "nowhere")
    assert code == MissingFileError.exit_code and "nowhere" in line and line.count("\n") == 1
