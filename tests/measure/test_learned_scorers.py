"""Learned scorers on tiny or random networks, against the same figures computed another way."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from stagevar.errors import ForeignCheckpointError, MissingExtraError, MissingFileError, ShapeError
from stagevar.families.tiny import tiny
from stagevar.loading.folder import save_model
from stagevar.measure.likeness.embeddings import CLIP, IMAGENET, clip, dino
from stagevar.measure.likeness.perceptual import Dists, L2Pool, Lpips, dists, lpips
from stagevar.measure.study.plots import LABELS
from stagevar.measure.study.report import markdown
from stagevar.measure.study.stages import profile
from stagevar.measure.study.study import study
from stagevar.measure.suites.scenes import default_prompts
from stagevar.pipeline import Pipeline

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
ALEXNET = {0: (3, 64, 11), 3: (64, 192, 5), 6: (192, 384, 3), 8: (384, 256, 3), 10: (256, 256, 3)}
VGG = [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512]


def pictures(n: int = 2, size: tuple[int, int] = (40, 24), seed: int = 0) -> Tensor:
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))


def normalised(x: Tensor, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    x = F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)


def cosine(x: Tensor, y: Tensor) -> list[float]:
    return [float(a @ b / (a @ a).sqrt() / (b @ b).sqrt()) for a, b in zip(x, y, strict=True)]


# --- encoders of transformers ------------------------------------------------


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    text = SMALL | {"vocab_size": 20, "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1}
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("vit")
    ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_clip_is_the_cosine_of_image_embeddings(clip_folder: Path) -> None:
    x, y = pictures(seed=0), pictures(seed=1)
    scorer = clip(clip_folder)
    assert scorer(x, x).tolist() == pytest.approx([1, 1])
    network = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        pooled = [network.vision_model(pixel_values=normalised(z, 32, *CLIP)).pooler_output for z in (x, y)]
        vectors = [each @ network.visual_projection.weight.T for each in pooled]
    assert scorer(x, y).tolist() == pytest.approx(cosine(*vectors), abs=1e-5)
    assert scorer(x, y).tolist() != pytest.approx([1, 1], abs=1e-5)


def test_the_vision_half_of_clip_will_do(clip_folder: Path, tmp_path: Path) -> None:
    config = CLIPConfig.from_pretrained(clip_folder).vision_config
    config.projection_dim = 6
    CLIPVisionModelWithProjection.from_pretrained(clip_folder, config=config).save_pretrained(tmp_path)
    x, y = pictures(seed=0), pictures(seed=1)
    assert torch.allclose(clip(tmp_path)(x, y), clip(clip_folder)(x, y))


def test_dino_is_the_cosine_of_class_tokens(vit_folder: Path) -> None:
    x, y = pictures(seed=0), pictures(seed=1)
    scorer = dino(vit_folder)
    assert scorer(x, x).tolist() == pytest.approx([1, 1])
    network = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        vectors = [network(normalised(z, 32, *IMAGENET)).last_hidden_state[:, 0] for z in (x, y)]
    assert scorer(x, y).tolist() == pytest.approx(cosine(*vectors), abs=1e-5)


def test_dinov2_takes_the_crop_and_the_colours_that_its_folder_states(tmp_path: Path) -> None:
    torch.manual_seed(2)
    Dinov2Model(Dinov2Config(**SMALL, image_size=56, patch_size=14, mlp_ratio=2)).save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    network = Dinov2Model.from_pretrained(tmp_path).eval()
    x, y = pictures(seed=0), pictures(seed=1)
    for stated, side, colours in (
        (None, 56, IMAGENET),
        ({"crop_size": {"height": 28, "width": 28}, "image_mean": mean, "image_std": std}, 28, (mean, std)),
        ({"crop_size": 42}, 42, IMAGENET),
    ):
        if stated is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
        with torch.no_grad():
            vectors = [network(normalised(z, side, *colours)).last_hidden_state[:, 0] for z in (x, y)]
        assert dino(tmp_path)(x, y).tolist() == pytest.approx(cosine(*vectors), abs=1e-5)


def test_encoders_that_cannot_be_used(
    clip_folder: Path, vit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, bare, foreign, halved = (tmp_path / name for name in ("empty", "bare", "foreign", "halved"))
    for folder in (empty, bare, foreign, halved):
        folder.mkdir()
    for folder in (bare, foreign, halved):
        (folder / "config.json").write_bytes((vit_folder / "config.json").read_bytes())
    (foreign / "model.safetensors").write_bytes((clip_folder / "model.safetensors").read_bytes())
    (halved / "model.safetensors").write_bytes((vit_folder / "model.safetensors").read_bytes()[:999])
    for folder in (tmp_path / "nowhere", empty, bare):
        with pytest.raises(MissingFileError, match=folder.name):
            dino(folder)
    for load, folder, part in (
        (dino, foreign, "tensors missing"),
        (dino, halved, "halved"),
        (dino, clip_folder, "no DINO encoder"),
        (clip, vit_folder, "no CLIP encoder"),
    ):
        with pytest.raises(ForeignCheckpointError, match=part):
            load(folder)
    for stated in ("[", '{"image_mean": [1, 2]}'):
        (vit_folder / "preprocessor_config.json").write_text(stated)
        with pytest.raises(ForeignCheckpointError, match=vit_folder.name):
            dino(vit_folder)
    (vit_folder / "preprocessor_config.json").unlink()
    monkeypatch.setitem(sys.modules, "transformers", None)
    for load, folder in ((clip, clip_folder), (dino, vit_folder)):
        with pytest.raises(MissingExtraError, match=r"stagevar\[text\]"):
            load(folder)


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
    found = study(Pipeline(tiny(family)), default_prompts(2), rank_prompts=1, scorers=scorers)
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
    arguments = ["study", "-m", "model", "--prompts", 1, "--rank-prompts", 1]
    weights = ["--clip", clip_folder, "--dino", vit_folder, "--lpips", files["alex"], "--lpips", files["alexnet"]]
    code, out, _ = command(*arguments, *weights, "--dists", files["dists"], "--dists", files["vgg16"], "--json")
    assert code == 0
    curves = json.loads(out)["curves"]
    assert [curves[name]["mean"][-1] for name in ("clip", "dino", "lpips", "dists")] == pytest.approx([1] * 4)
    code, _, line = command(*arguments, "--clip", "nowhere")
    assert code == MissingFileError.exit_code and "nowhere" in line and line.count("\n") == 1
