"""What a model may ask of the loop beyond tokens: rows ahead of them, rotary tables per row, a continuous residual."""

import pytest
import torch

from stagevar.accelerators.sketch import Sketch
from stagevar.drawing import condition
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.noise import normals, uniforms
from stagevar.engine.loop.run import run
from stagevar.engine.plan.merge import Merge
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.select import Select
from stagevar.families.infinity.network import Infinity, InfinityConfig
from stagevar.families.stand_ins import WordHash
from stagevar.families.tiny import randomize, tiny
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.measure.predict.flops import plan_flops
from stagevar.request import Request

AHEAD = 3
SCALES = 5
PROMPTS = ["a red circle", "two yellow rings"]
REDUCTIONS = (
    Select(0.4),
    Select(0.5, restore_by="hidden", scope="group"),
    Select(0.4, restore_by="zero_code"),
    Merge(0.4),
    Sketch(ratios=(0.3, 0.6)),
)


class RowTables(Infinity):
    """The same rotary factors, given once per row."""

    def rope(self, at, condition):
        return super().rope(at, condition).expand(condition.rows, -1, -1, -1)


class Prefixed(RowTables):
    """Three rows ahead of the first token, which sees them through attention alone."""

    def rows(self, at):
        return super().rows(at) + (AHEAD if at.k == 0 else 0)

    def embed(self, latent, condition, at):
        x = super().embed(latent, condition, at)
        return torch.cat([x.roll(1, -1).repeat(1, AHEAD, 1), x], 1) if at.k == 0 else x

    def rope(self, at, condition):
        table = super().rope(at, condition)
        return table.repeat(1, 1 + AHEAD, 1, 1) if at.k == 0 else table


class SharedTable(Prefixed):
    """The same rotary factors, given once for all rows."""

    def rope(self, at, condition):
        return super().rope(at, condition)[0]


class Noisy(Infinity):
    """Adds its guided hidden states, of as many channels as the latent has, and noise, behind the last codes."""

    def residual(self, x, codes, drawing):
        at, index = drawing.at, drawing.index
        if not at.last:
            return None
        n = len(codes)
        weights = x.new_tensor(drawing.guidance).view(-1, 1, 1)
        guided = x if len(x) == n else weights * x[:n] + (1 - weights) * x[n:]
        rows = guided[..., :8] + drawing.normals(8, x.device)
        if index is not None:
            rows = torch.zeros(n, self.rows(at), 8).scatter(1, index[..., None].expand(-1, -1, 8), rows)
        return rows.mT.unflatten(-1, at.grid)


def made(kind):
    tokenizer = TokenizerConfig(bits=8, stride=2, base=32, encoder=(1, 2), decoder=(1, 2), residual_blocks=1)
    model = kind(
        InfinityConfig(
            width=64, depth=4, heads=2, chunks=2, tokenizer=tokenizer, text_channels=128, text_length=16, budget="0.06M"
        ),
        "stand-in",
    )
    model.text_encoder = WordHash(128, 16)
    randomize(model, 0)
    return model


def generate(model, plans, seeds=(1, 2), prompts=PROMPTS, tap=None):
    condition = model.condition(model.encode_text(prompts[: len(plans)]))
    return list(run(model, condition, model.schedule()[:SCALES], plans, seeds[: len(plans)], tap=tap))


def reduced(tokens, scales=(3, 4), **fields):
    return Plan.uniform(SCALES, guidance=2.0).replace(scales, tokens=tokens, **fields)


@pytest.mark.parametrize("tokens", [None, *REDUCTIONS], ids=str)
def test_rotary_tables_may_differ_by_row(tokens):
    plans = [reduced(tokens), reduced(tokens, branch="cond")]
    shared, own = (generate(made(kind), plans)[-1].latent for kind in (Infinity, RowTables))
    assert torch.equal(shared, own)


def test_rows_ahead_are_attended_to_and_nothing_else():
    seen = {}
    model = made(Prefixed)
    steps = generate(model, [Plan.uniform(SCALES)] * 2, tap=lambda name, k, x: seen.__setitem__((name, k), x))
    tokens = [h * w for h, w in model.schedule()[:SCALES]]
    for k, count in enumerate(tokens):
        assert steps[k].records[0].rows == 4 * (count + (AHEAD if k == 0 else 0))
        assert seen["logits", k].shape[1] == count
        assert seen["attended.2", k].shape[2] == AHEAD + sum(tokens[: k + 1])
    assert seen["block.3", 0].shape[1] == AHEAD + 1
    assert not torch.equal(steps[-1].latent, generate(made(RowTables), [Plan.uniform(SCALES)] * 2)[-1].latent)


@pytest.mark.parametrize("tokens", REDUCTIONS, ids=str)
def test_rows_ahead_are_never_reduced(tokens):
    """A plan may reduce the very first scale, or restore from it; its only token is then kept."""
    model = made(Prefixed)
    first = [0, 1] if not tokens.needs else [1]
    steps = generate(model, [Plan.uniform(SCALES).replace(first, tokens=tokens)] * 2)
    assert steps[0].records[0].rows == 4 * (1 + AHEAD)
    plain = generate(model, [Plan.uniform(SCALES)] * 2)
    if 0 in first and not isinstance(tokens, Merge):
        assert torch.equal(steps[0].latent, plain[0].latent)
    assert not torch.equal(steps[-1].latent, plain[-1].latent)
    reused = generate(model, [Plan.uniform(SCALES).replace([1], run="reuse")] * 2)
    assert reused[1].records[0].rows == 0


def test_a_table_for_all_rows_serves_rows_that_are_kept_by_row():
    plans = [Plan.uniform(SCALES).replace([0, 1], tokens=Select(0.4, "norm", "nearest"))] * 2
    own, shared = (generate(made(kind), plans)[-1].latent for kind in (Prefixed, SharedTable))
    assert torch.equal(own, shared)


def test_the_cache_is_made_for_the_rows_ahead_too():
    model, grown = made(Prefixed), []
    generate(model, [Plan.uniform(SCALES)], tap=lambda name, k, x: grown.append(x) if name == "attended.0" else None)
    positions = AHEAD + sum(h * w for h, w in model.schedule()[: SCALES - 1])
    assert grown[0].untyped_storage().nbytes() == grown[-2].untyped_storage().nbytes()
    assert grown[0].untyped_storage().nbytes() == 2 * 64 * positions * 4


def test_rows_ahead_are_counted():
    model = made(Prefixed)
    plan = Plan.uniform(SCALES)
    rows = plan_flops(model, model.schedule()[:SCALES], plan, 5)
    plain = plan_flops(made(Infinity), model.schedule()[:SCALES], plan, 5)
    assert rows[0].linear == (1 + AHEAD) * plain[0].linear
    assert rows[0].attention == (1 + AHEAD) ** 2 * plain[0].attention
    assert rows[0].head == plain[0].head and rows[0].share == 1
    assert rows[1].linear == plain[1].linear and rows[1].attention > plain[1].attention


def test_a_residual_is_added_with_noise_of_its_own():
    model, bare = made(Noisy), made(Infinity)
    plans = [Plan.uniform(SCALES, guidance=2.0)] * 2
    steps, plain = generate(model, plans), generate(bare, plans)
    assert torch.equal(steps[-2].latent, plain[-2].latent)
    assert not torch.allclose(steps[-1].latent, plain[-1].latent)
    for i in range(2):
        alone = generate(model, plans[:1], seeds=[i + 1], prompts=[PROMPTS[i]])[-1].latent
        assert torch.allclose(alone[0], steps[-1].latent[i], atol=1e-5)
    single, guided = (
        generate(model, [Plan.uniform(SCALES, **fields)] * 2)[-1].latent for fields in ({"branch": "cond"}, {})
    )
    assert torch.allclose(single, guided, atol=1e-5)


def test_a_residual_follows_the_kept_rows():
    seen = {}
    plan = reduced(Select(0.25, restore_by="zero_code"), scales=[4])
    generate(made(Noisy), [plan] * 2, tap=lambda name, k, x: seen.__setitem__(name, x))
    h, w = seen["residual"].shape[-2:]
    assert (seen["residual"].abs().sum(1) > 0).flatten(1).sum(1).tolist() == [round(0.25 * h * w)] * 2


def test_normal_numbers_are_keyed_by_seed_scale_and_position():
    cpu = torch.device("cpu")
    full = normals([1, 2], 3, 50, 40, None, cpu)
    assert full.shape == (2, 50, 40)
    assert torch.equal(full[1:], normals([2], 3, 50, 40, None, cpu))
    assert torch.equal(full[:, [4, 9]], normals([1, 2], 3, 50, 40, torch.tensor([[4, 9], [4, 9]]), cpu))
    others = [full[1], normals([1], 4, 50, 40, None, cpu)[0], uniforms(1, 3, (50, 40))]
    assert all(abs(torch.corrcoef(torch.stack([full[0].flatten(), o.flatten()]))[0, 1]) < 0.1 for o in others)
    assert abs(full.mean()) < 0.05 and full.std() == pytest.approx(1, abs=0.05)


def test_entries_of_a_text_are_spread_with_their_masks():
    features, pooled = (torch.ones(2, 4), torch.full((3, 4), 2.0)), torch.tensor([[1.0], [2.0]])
    text = Text(features, pooled, (torch.ones(2), torch.ones(3))).spread([2, 0], 3)
    assert [len(states) for states in text.features] == [3, 0, 2]
    assert text.pooled.tolist() == [[2.0], [0.0], [1.0]]
    assert [len(mask) for mask in text.masks] == [3, 0, 2]


@pytest.mark.parametrize("masked", [(True, True), (True, False), (False, True), (False, False)])
def test_empty_entries_of_a_text_are_filled_with_the_null_text(masked):
    states, null = torch.ones(2, 4), torch.full((3, 4), 2.0)
    masks, null_masks = ((each[:, 0],) if m else None for each, m in zip((states, null), masked, strict=True))
    filled = Text((states,), None, masks).spread([1], 2).filled(Text((null,), None, null_masks))
    assert [entry.tolist() for entry in filled.features] == [null.tolist(), states.tolist()]
    assert filled.pooled is None
    assert (filled.masks and [len(mask) for mask in filled.masks]) == ([3, 2] if all(masked) else None)


def test_pooled_states_are_filled_where_both_texts_have_them():
    given, null = (Text((torch.ones(1, 2),), torch.full((1, 2), value)) for value in (1.0, 2.0))
    assert given.spread([1], 2).filled(null).pooled.tolist() == [[2, 2], [1, 1]]
    assert given.spread([1], 2).filled(Text(null.features)).pooled is None


def test_a_negative_prompt_reaches_its_own_picture_only():
    model = tiny("infinity")
    requests = [Request("a star"), Request("a ring", negative_prompt="blurry")]
    mixed, plain = (condition(model, r) for r in (requests, [requests[0], Request("a ring")]))
    same = [torch.equal(mixed.pooled[i], plain.pooled[i]) for i in range(4)]
    assert same == [True, True, True, False]
