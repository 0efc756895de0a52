"""The training recipe: what makes a resumed run the run, its attention against the plain one, and its worlds."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses its own old parts

RECIPE = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def recipe_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE))
    yield
    own = {path.stem for path in RECIPE.iterdir()}
    for name in [name for name in sys.modules if name.split(".")[0] in own]:
        del sys.modules[name]


@pytest.fixture
def material(tmp_path):
    """Small pictures in place of the photographs: opaque rectangles and noise."""
    import numpy as np
    from photos.material import SIDES, SIZE, VIEWS

    from stagevar.photos.captions import OBJECTS, PLACES

    rng, folder = np.random.default_rng(0), tmp_path / "material"
    folder.mkdir()
    sizes = [(f"{thing} {side}", side, side - i % 8) for i, thing in enumerate(OBJECTS) for side in SIDES]
    cutouts = {name: rng.integers(0, 256, (high, wide, 4), dtype=np.uint8) for name, high, wide in sizes}
    for cutout in cutouts.values():
        cutout[..., 3] = 255
    np.savez(folder / "cutouts.npz", **cutouts)
    np.savez(
        folder / "places.npz",
        **{place: rng.integers(0, 256, (VIEWS, SIZE, SIZE, 3), dtype=np.uint8) for place in PLACES},
    )
    return folder


def test_segmented_attention_equals_masked_attention_with_its_gradients():
    import objective

    lengths = [1, 4, 9, 16, 36, 64, 20]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, sum(lengths), 8, generator=generator).requires_grad_() for _ in range(3))
    attend = objective.BlockCausal(lengths, torch.device("cpu"))
    attend.mask = attend.mask.float()
    level = torch.cat([torch.full((length,), s) for s, length in enumerate(lengths)])
    mask = level[:, None] >= level[None]
    found = attend(q, k, v, scale=0.3)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    assert torch.allclose(found, want, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), (q, k, v)),
        torch.autograd.grad(want.square().sum(), (q, k, v)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_crops_of_the_two_largest_scales_show_the_same_place():
    import random

    import data

    for seed in range(20):
        chosen = data.crop((1, 2, 12, 16), random.Random(seed))
        corners = [divmod(int(chosen[k][0]), side) for k, side in ((2, 12), (3, 16))]
        assert [len(chosen[k]) for k in (2, 3)] == [36, 64]
        for (y, x), (Y, X) in [corners]:
            assert abs(y / 12 - Y / 16) < 0.05 and abs(x / 12 - X / 16) < 0.05


def test_codes_without_noise_are_the_tokenizers_and_the_latents_are_those_the_loop_sees():
    import data

    from stagevar.engine.grids.grid import scales
    from stagevar.families.tiny import tiny

    model = tiny("scenes")
    pictures = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    codes, latents = data.tokenised(model, pictures, 5, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(codes, model.tokenizer.encode(pictures), strict=True))
    latent = torch.zeros(2, 12, 6, 6)
    for at in scales(model.schedule()):
        assert torch.allclose(latents[at.k], latent, atol=1e-6)
        latent = model.add_codes(latent, codes[at.k], at.schedule, at.k)


@pytest.mark.slow
@torch.compiler.set_stance("force_eager")
def test_a_resumed_run_is_the_run(tmp_path):
    import train

    settings = {"steps": 40, "tokens": 150, "seed": 3, "muon": 0.02, "adam": 2e-3, "every": 100, "sheet": 100}
    options = argparse.Namespace(run=tmp_path, world="scenes", begin=None, **settings)
    run = train.Training(options)
    for _ in range(2):
        run.one_step()
    run.save()
    resumed = train.Training(options)
    assert resumed.step == 2
    run.one_step()
    resumed.one_step()
    for (name, ours), theirs in zip(run.average.named_parameters(), resumed.average.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name
    assert '"step": 3' in resumed.report(with_sheet=False)


def test_the_shipped_card_is_what_its_command_writes_from_the_scores():
    import json

    from scenes import card

    from stagevar.families.scenes.sizes import SHIPPED

    measured = json.loads((SHIPPED / "scores.json").read_text())
    assert (SHIPPED / "README.md").read_text() == card.card(measured)
    assert measured["scores"][0]["captions"] >= 600


def test_every_layout_shows_its_caption_to_a_reader_without_faults(material):
    import random

    import numpy as np
    from photos.reading import labelled
    from photos.render import Renderer, lay_out

    from stagevar.photos.captions import PLACES, caption_suite
    from stagevar.photos.judge import judge, read
    from stagevar.photos.reader import OTHER, Reader

    class Faultless(Reader):
        def forward(self, pictures):
            every = torch.nn.functional.one_hot(self.cells, OTHER + 1).permute(2, 0, 1).float()
            return every[None], torch.nn.functional.one_hot(self.place, len(PLACES)).float()[None]

    renderer, rng, reader = Renderer(material), random.Random(0), Faultless()
    for scene in caption_suite(200):
        layout = lay_out(scene, rng)
        picture, cells, place = labelled(renderer, layout)
        reader.cells, reader.place = torch.from_numpy(cells), torch.tensor(place)
        assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
        [reading] = read(reader, torch.zeros(1, 3, 64, 64))
        assert judge(scene, *reading).strict, scene.caption


def test_a_picture_is_its_place_but_where_an_object_hides_it(material):
    import random

    import numpy as np
    from photos.render import Renderer, lay_out

    from stagevar.photos.captions import parse

    renderer = Renderer(material)
    layout = lay_out(parse("a duck above a drum"), random.Random(1))
    picture, hidden = renderer.draw(layout), sum(map(renderer.opaque, layout.objects))
    with np.load(material / "places.npz") as places:
        place = places[layout.place][layout.view]
    assert np.array_equal(picture[hidden == 0], place[hidden == 0])
    assert 2 * 27 * 20 <= hidden.sum() <= 2 * 27 * 27 and hidden.max() == 1


def test_the_reader_is_taught_what_the_layouts_say(material):
    import random

    from photos.reading import examples, train_reader
    from photos.render import Renderer

    from stagevar.families.tiny import tiny
    from stagevar.photos.reader import NOTHING, OTHER, Reader

    renderer, tokenizer = Renderer(material), tiny("scenes", grids=(1, 32), codes=(8, 8)).tokenizer
    pictures, cells, places = examples(renderer, tokenizer, random.Random(0), 8)
    assert pictures.shape == (8, 3, 64, 64) and cells.shape == (8, 16, 16) and places.shape == (8,)
    assert all(NOTHING in each and len(each.unique()) > 1 for each in cells)
    assert OTHER in cells[1::2] and OTHER not in cells[::2]
    torch.manual_seed(0)
    reader = Reader()
    before = {name: parameter.clone() for name, parameter in reader.named_parameters()}
    train_reader(reader, renderer, tokenizer, seed=0, steps=3, count=4)
    assert all(not torch.equal(before[name], parameter) for name, parameter in reader.named_parameters())
    assert not any(parameter.requires_grad for parameter in reader.parameters())


@pytest.mark.slow
@torch.compiler.set_stance("force_eager")
def test_training_goes_on_from_the_weights_of_a_model(material, tmp_path):
    import train
    from worlds import WORLDS

    from stagevar.families.scenes.network import Scenes
    from stagevar.families.tiny import randomize
    from stagevar.loading.save import save_model

    given = Scenes(WORLDS["photos"](tmp_path).config)
    randomize(given, 0)
    save_model(given, tmp_path / "given")
    settings = {"steps": 40, "tokens": 150, "seed": 3, "muon": 0.02, "adam": 2e-3, "every": 100, "sheet": 100}
    run = train.Training(argparse.Namespace(run=tmp_path, world="photos", begin=str(tmp_path / "given"), **settings))
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), given.parameters(), strict=True))
    run.one_step()
    moved = {
        name
        for name, parameter in run.model.named_parameters()
        if not torch.equal(parameter, given.get_parameter(name))
    }
    assert "head.proj.weight" in moved and not any(name.startswith("reader.") for name in moved)


def test_a_model_of_another_world_gives_its_blocks_and_axes_but_neither_words_nor_codes():
    import train

    from stagevar.families.tiny import tiny

    given, model = tiny("scenes", seed=1), tiny("scenes", seed=2, world="photos")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train.take_shared(model, given)
    for name, tensor in model.state_dict().items():
        source = (
            own
            if name.startswith(("text.words", "head", "level_bias", "tokenizer.codebook", "reader", "input"))
            else given.state_dict()
        )
        assert torch.equal(tensor, source[name]), name


def test_the_oracle_reads_shapes_over_texture_whose_spectrum_falls_as_it_says(tmp_path):
    import random

    import numpy as np
    from scenes.texture import Texture, noise

    from stagevar.measure.likeness.fidelity import band_energy
    from stagevar.scenes.captions import caption_suite
    from stagevar.scenes.oracle import judge

    scenes = caption_suite(60)
    pictures = Texture(tmp_path).render(scenes, random.Random(0))
    assert all(judge(scene, picture).strict for scene, picture in zip(scenes, pictures, strict=True))
    flat, steep = (
        torch.from_numpy(np.stack([noise(beta, seed) for seed in range(20)]))[:, None] for beta in (0.8, 1.6)
    )
    octaves = [10 * band_energy(each).mean(0).log10().diff()[1] for each in (flat, steep)]
    assert octaves[0] - octaves[1] == pytest.approx(6.02 * 0.8, abs=1.0)


def test_faults_are_seeded_and_differ_from_picture_to_picture():
    from restore.degradations import DEGRADATIONS, degraded

    from stagevar.measure.likeness.fidelity import psnr

    clean = torch.full((10, 3, 64, 64), 0.2)
    clean[:, :, 20:40, 20:40] = torch.rand(10, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    for spoil in DEGRADATIONS.values():
        one, same, other = (spoil(clean, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other)
        assert one.shape == clean.shape and float(one.min()) >= 0 and float(one.max()) <= 1
        assert float(psnr(one, clean).std()) > 0.1 and float(psnr(one, clean).max()) < 45
    assert torch.equal(degraded(clean, 3), degraded(clean, 3))
    alike = degraded(clean[:1].expand(10, -1, -1, -1), 2)
    nearest = [float(psnr(alike[i : i + 1], clean[:1])) for i in range(10)]
    assert len(set(nearest)) == 10
    dark = [float(picture.mean()) < 0.1 for picture in alike]
    assert dark == [(i + 2) % 5 == list(DEGRADATIONS).index("low light") for i in range(10)]


@pytest.mark.slow
@torch.compiler.set_stance("force_eager")
def test_a_model_that_learns_to_restore_keeps_its_own_weights(tmp_path):
    import export
    from restore import train

    settings = {"steps": 2, "tokens": 150, "seed": 3, "muon": 0.02, "adam": 2e-3, "every": 100, "sheet": 100}
    folder = tmp_path / "model"
    for begin, path, wanted, other in (
        ("scenes", tmp_path / "encoder", "picture.clean.weight", ".cross.picture."),
        (str(folder), tmp_path / "attention", "blocks.5.cross.picture.proj.weight", "picture.clean."),
    ):
        path.mkdir()
        options = argparse.Namespace(run=path, world="scenes", begin=begin, **settings)
        run = train.Restoration(options)
        given = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
        run.train()
        moved = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, given[name])}
        assert {"trust", wanted} <= moved and not [name for name in moved if other in name]
        assert all(map(train.trained, moved))
        average = run.average.state_dict()
        assert all(torch.equal(average[name], given[name]) for name in given if not train.trained(name))
        resumed = train.Restoration(options)
        assert resumed.step == 2 and torch.equal(resumed.model.trust, run.model.trust)
        assert len(resumed.validation()) == 10
        export.write(train.restoring(run.world.config), path, folder)


def test_the_card_of_the_model_that_restores_is_what_its_command_writes():
    import json

    from restore import card

    measured = json.loads((card.MODEL / "scores.json").read_text())
    assert (card.MODEL / "README.md").read_text() == card.card(measured)
    assert measured["restored"]["captions"] >= 100
