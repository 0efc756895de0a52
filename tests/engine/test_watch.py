"""What plans watch: numbers and maps against twins, nothing unasked, and nothing else changes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.latent import resize
from stagevar.engine.loop.run import run
from stagevar.engine.plan import watch as module
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.parts import PartContext, PartRows, Rows, Sites
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.reads import Read
from stagevar.engine.plan.select import Select
from stagevar.engine.plan.watch import Activity, AttentionEntropy, CodeEntropy, Thumbnail, attention_entropy, sobel
from stagevar.errors import OptionError
from stagevar.families.tiny import tiny

MODELS = {family: tiny(family) for family in ("infinity", "scenes", "star", "hart", "switti", "var")}
MODELS["switti-ar"] = tiny("switti", causal=True)
SCALES = 5
PROMPTS = ["a red circle", "two yellow rings", "a star above a cross"]
ENTROPY, ACTIVITY = AttentionEntropy(0.5), Activity((0.3, 0.8))
CODES, THUMBNAIL = CodeEntropy(), Thumbnail(16)
WATCH = (ENTROPY, ACTIVITY, CODES, THUMBNAIL)
SEEDS = [21, 22, 23]  # no number that they draw lies within rounding (1e-6) of the edge between two codes

families = pytest.mark.parametrize("family", list(MODELS))


def plan_with(at=(3, 4), **fields):
    return Plan.uniform(SCALES, guidance=2.0, temperature=0.8).replace(at, **fields)


def generate(family, plans, first=0, tap=None):
    """The last latents, and the watched numbers by image and scale."""
    model, numbers = MODELS[family], {}
    condition = model.condition(model.encode_text([*"378"] if model.family == "var" else PROMPTS))
    images = range(first, first + len(plans))
    condition = condition.take([*images, *(image + 3 for image in images)])

    def revise(image, plan, at, signals):
        numbers[image + first, at.k] = signals.watched
        return plan

    seeds = SEEDS[first : first + len(plans)]
    *_, last = run(model, condition, model.schedule()[:SCALES], plans, seeds, revise=revise, tap=tap)
    return last.latent, numbers


def entropy_ref(q, k, scale):
    shares = (q.double() @ k.double().mT * scale).softmax(-1)
    return -(shares * shares.log()).sum(-1)


def test_entropy_of_attention_is_exact_and_taken_in_pieces(monkeypatch):
    q, k = torch.randn(2, 3, 50, 8), torch.randn(2, 3, 70, 8)
    whole = attention_entropy(q, k, 0.7)
    torch.testing.assert_close(whole.double(), entropy_ref(q, k, 0.7), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(module, "QUERIES", 7)
    torch.testing.assert_close(attention_entropy(q, k, 0.7), whole)
    means = (q @ k.mT * 0.7).softmax(-1) @ k
    from_sums = (q @ k.mT * 0.7).logsumexp(-1) - 0.7 * (q * means).sum(-1)
    torch.testing.assert_close(from_sums, whole, atol=1e-4, rtol=1e-4)
    rows = ENTROPY.rows(torch.zeros(1, 1, 2, 8), k[:1, :1], 1.0)
    torch.testing.assert_close(rows, torch.ones(1, 2))


@families
def test_what_is_watched_equals_its_twin(family, monkeypatch):
    model, seen, calls, places = MODELS[family], {}, [], {}
    attention, at = F.scaled_dot_product_attention, Scale(MODELS[family].schedule(), 3)

    def noted(q, k, v, *mask, **named):
        calls.append((q, k, named.get("scale")))
        return attention(q, k, v, *mask, **named)

    def tap(name, k, x):
        if k == 3:
            seen[name], places[name] = x, len(calls)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    _, numbers = generate(family, [plan_with(at=(3,), watch=WATCH)] * 2, tap=tap)
    ahead, layer, blocks = model.rows(at) - at.tokens, ENTROPY.layer(model.depth), ACTIVITY.blocks(model.depth)
    q, k, scale = calls[places[f"attended.{layer}"]]
    attended = entropy_ref(q[:, :, ahead:], k, scale).mean((1, 2)).view(2, 2).mean(0) / np.log(k.shape[2])
    before = seen["embed"] if not blocks[0] else seen[f"block.{blocks[0] - 1}"]
    change = (seen[f"block.{blocks[-1]}"] - before)[:, ahead:].double().square().mean(2).view(2, 2, -1).mean(0)
    logits = (0.8 * seen["logits"].double()).log_softmax(-1)
    codes = -(logits.exp() * logits).sum(-1).flatten(1).mean(1) / np.log(logits.shape[-1])
    for image in range(2):
        found = numbers[image, 3]
        assert found[ENTROPY] == pytest.approx([float(attended[image])], rel=1e-4)
        assert found[ACTIVITY] == pytest.approx([float((change[image] / change[image].max()).mean())], rel=1e-4)
        assert found[CODES] == pytest.approx([float(codes[image])], rel=1e-4)
        assert numbers[image, 2] == numbers[image, 4] == {}


def test_a_thumbnail_s_numbers_are_those_of_its_definition():
    picture = torch.rand(12, 16)
    padded, down, across = np.pad(picture.numpy(), 1), np.zeros((12, 16)), np.zeros((12, 16))
    for y in range(12):
        for x in range(16):
            window = padded[y : y + 3, x : x + 3]
            across[y, x] = (window[:, 0] - window[:, 2]) @ [1, 2, 1]
            down[y, x] = (window[0] - window[2]) @ [1, 2, 1]
    np.testing.assert_allclose(sobel(picture[None])[0], np.hypot(down, across), atol=1e-5)
    place = torch.arange(16)
    for period, share in ((2, 1.0), (8, 0.0)):
        stripes = torch.cos(2 * torch.pi * place / period).expand(16, 16)
        assert float(module.high_share(stripes[None], 0.4)) == pytest.approx(share, abs=1e-4)


def test_a_thumbnail_is_decoded_on_the_smallest_grid_that_suffices():
    model, asked = tiny("scenes"), []
    schedule = model.schedule()
    sizes = [model.picture_size(schedule[: k + 1]) for k in range(len(schedule))]
    latent = torch.randn(2, *model.empty_latent(1, schedule).shape[1:])

    def decode(latent):
        asked.append(latent)
        return model.decode(latent)

    def numbers(pixels):
        at = Scale(schedule, len(schedule) - 1)
        seen = module.Seen(at, None, latent, latent / 2, decode, model.picture_size)
        return Thumbnail(pixels).numbers(seen)

    for k, size in enumerate(sizes):
        numbers(min(size))
        assert tuple(asked[-1].shape[-2:]) == schedule[k]
    pictures = [model.decode(resize(each, schedule[-1], "bilinear")).mul(2).sub(1).mean(1) for each in asked[-2:]]
    expected = (sobel(pictures[0]) - sobel(pictures[1])).abs().mean((1, 2))
    torch.testing.assert_close(numbers(10**4)[:, 0], expected)
    torch.testing.assert_close(asked[-1], latent / 2)


@families
@pytest.mark.parametrize("fields", [{}, {"branch": "cond"}, {"parts": (PartRows(0.5, ("cross", "feed_forward")),)}])
def test_watching_changes_no_bit_of_a_picture(family, fields):
    plain = plan_with(**fields)
    watched = plain.replace(range(SCALES), watch=WATCH)
    assert torch.equal(generate(family, [plain] * 2)[0], generate(family, [watched] * 2)[0])


@pytest.mark.parametrize("asked", [(), *((watch,) for watch in WATCH)])
def test_nothing_unasked_is_computed(asked, monkeypatch):
    model, counts = MODELS["infinity"], []
    for kind in {type(watch) for watch in WATCH}:
        for name in ("rows", "numbers"):
            if (method := getattr(kind, name, None)) is not None:

                def counted(self, *given, method=method, name=name):
                    counts.append((type(self), name))
                    return method(self, *given)

                monkeypatch.setattr(kind, name, counted)
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda latent: counts.append("decode") or decode(latent))
    generate("infinity", [plan_with(at=(3,), watch=asked)])
    for watch in asked:
        rows, pictures = (0, 2) if watch.place == "picture" else (1, 0)
        assert counts.count((type(watch), "numbers")) == 1
        assert counts.count((type(watch), "rows")) == rows and counts.count("decode") == pictures
    assert len(counts) == (len(asked) and (3 if THUMBNAIL in asked else 2))


def memory_of(monkeypatch, plan):
    """What memory holds behind each scale, by kind and scale that wrote it, and the last latent."""
    held, kept = {}, []
    keep_only = Memory.keep_only

    def noted(memory, read):
        keep_only(memory, read)
        kept.append(memory)

    monkeypatch.setattr(Memory, "keep_only", noted)

    def tap(name, k, x):
        if name == "latent":
            held[k] = sorted({(kind, scale) for kind, _, scale in kept[-1]._maps if kind != "guidance"})

    return held, generate("scenes", [plan], tap=tap)[0]


def test_a_map_stays_until_its_last_reader_has_run_and_no_other_stays(monkeypatch):
    plan = plan_with(at=range(SCALES), watch=(CODES, ENTROPY)).replace([4], watch=())
    held, latent = memory_of(monkeypatch, plan)
    assert set(map(tuple, held.values())) == {()}
    rule = PartRows(0.4, ("cross",), score=CODES, score_source=1, fill="zero")
    held, _ = memory_of(monkeypatch, plan.replace([3], parts=(rule,)))
    assert held == {0: [], 1: [("watched", 1)], 2: [("watched", 1)], 3: [], 4: []}
    sites = Sites(("attention",), (0.0, 0.5))
    remembered = plan.replace([4], remember=(Read("watched", 2, CODES), Read("part", 3, sites)))
    held, again = memory_of(monkeypatch, remembered)
    assert held == {0: [], 1: [], 2: [("watched", 2)], 3: [("part", 3), ("watched", 2)], 4: []}
    assert torch.equal(again, latent)


def test_a_plan_revised_to_read_what_it_remembers_draws_as_if_it_had_read_it_from_the_start():
    model = MODELS["infinity"]
    condition = model.condition(model.encode_text(PROMPTS[:1]))
    rule = PartRows(0.5, score=ENTROPY, source=2, score_source=2)
    first = plan_with(at=(2,), watch=(ENTROPY,))
    settled = first.replace([4], parts=(rule,))

    def drawn(plan, revise=None):
        return list(run(model, condition, model.schedule()[:SCALES], [plan], [1], revise=revise))[-1].latent

    reads = tuple(read for read in settled.reads[4])
    late = drawn(first.replace([4], remember=reads), lambda i, plan, at, _: settled.replace([4], remember=reads))
    assert torch.equal(late, drawn(settled))


watches = st.lists(st.sampled_from((*WATCH, AttentionEntropy(0.0), Activity((0.0, 1.0)))), max_size=3, unique=True)


@families
@settings(max_examples=6, deadline=None, derandomize=True)
@given(first=watches, second=watches, prune=st.sampled_from((0.3, 0.6)), single=st.booleans())
def test_numbers_and_rows_chosen_by_maps_do_not_depend_on_the_batch(family, first, second, prune, single):
    maps = [watch for watch in first if watch.place != "picture"]
    parts = tuple(PartRows(prune, score=watch, source=3) for watch in maps[:1])
    branch = {"branch": "cond"} if single else {}
    plan = plan_with(at=(3,), watch=tuple(first)).replace([4], parts=parts, **branch)
    plans = [plan, plan_with(at=(3, 4), watch=tuple(second)), plan]
    together, numbers = generate(family, plans)
    for i in range(3):
        alone, own = generate(family, plans[i : i + 1], first=i)
        assert torch.allclose(together[i], alone[0], atol=1e-2 if family == "hart" else 1e-4)
        for k in range(SCALES):
            assert list(numbers[i, k]) == list(own[i, k]) == list(plans[i][k].watch)
            for watch, found in own[i, k].items():
                assert numbers[i, k][watch] == pytest.approx(found, rel=1e-3, abs=1e-4)


@families
def test_rows_are_chosen_by_the_map_of_the_source(family):
    model, seen, chosen = MODELS[family], {}, {}

    def tap(name, k, x):
        seen[name, k] = x
        if name.startswith("chosen.") and k == 4:
            chosen[name] = x

    rule = PartRows(0.4, score=CODES, source=3)
    generate(family, [plan_with(at=(3,), watch=(CODES,)).replace([4], parts=(rule,))] * 2, tap=tap)
    grids, at = model.schedule(), Scale(model.schedule(), 4)
    map_ = resize(CODES.rows(0.8 * seen["logits", 3]).view(2, 1, *grids[3]), grids[4], "bilinear").flatten(1)
    count, ahead = rule.count(at.tokens), model.rows(at) - at.tokens
    best = map_.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(1).values + ahead
    for index in chosen.values():
        assert torch.equal(index[:, ahead:], best.repeat(2, 1))
    assert len(chosen) == sum(len(block.roles) for block in model.layers)


def test_ties_go_to_the_lower_position():
    rule, memory = PartRows(0.5, score=ENTROPY), Memory()
    memory.put("watched", ENTROPY, 0, torch.tensor([[0.5, 0.5 + 1e-7, 0.5 - 1e-7, 0.5]])[..., None], (2, 2))
    context = PartContext((0, "attention"), torch.empty(0), torch.empty(0), memory, 0)
    assert rule.choose(torch.zeros(2, 4, 3), Rows(0, (2, 2)), context).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"watch": (CODES,), "tokens": Select(0.5, restore_by="zero_code")}, "draws fewer"),
        ({"watch": (ACTIVITY,), "tokens": Select(0.5, restore_by="nearest")}, "runs fewer"),
        ({"watch": (ENTROPY,), "run": "reuse"}, "runs fewer or none"),
        ({"watch": ENTROPY}, "tuple of Watch"),
        ({"watch": ("entropy",)}, "tuple of Watch"),
        ({"remember": (CODES,)}, "tuple of Read"),
        ({"remember": (Read("watched", 2, CODES),)}, "scale 2 does not watch"),
        ({"parts": (PartRows(0.5, score=CODES, score_source=2),)}, "scale 2 does not watch"),
    ],
)
def test_plans_that_cannot_be_watched_are_refused(fields, reason):
    with pytest.raises(OptionError, match=reason):
        plan_with(at=(4,), **fields)


def test_settings_out_of_range_are_refused():
    for make in (
        lambda: AttentionEntropy(1.0),
        lambda: Activity((0.5, 0.5)),
        lambda: Thumbnail(0),
        lambda: Thumbnail(radius=1.0),
    ):
        with pytest.raises(OptionError):
            make()
