"""Checks of accelerated runs: one deep and thin Infinity network on the full square schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stagevar.accelerators.base import Accelerator, Facts, Nothing
from stagevar.accelerators.baselines import DropLast, GuidanceOff
from stagevar.accelerators.fastvar import FastVAR
from stagevar.accelerators.scalekv import ScaleKV
from stagevar.accelerators.sketch import Sketch
from stagevar.accelerators.sparvar import SparVAR
from stagevar.accelerators.stagevar_official import StageVARPaper, StageVARReleased
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Scale, Schedule
from stagevar.engine.grids.latent import resize
from stagevar.engine.loop.call import Tap
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.tokens import TokenContext
from stagevar.errors import OptionError
from stagevar.families.infinity.network import Infinity, InfinityConfig
from stagevar.families.tokenizers.bsq import TokenizerConfig
from stagevar.loading.fill import fill
from stagevar.measure.conform.conform import Probe, reading_config, require
from stagevar.measure.conform.infinity import greedy_plan
from stagevar.measure.conform.rivals import NAMES, Chosen, Dropped, compare_patterns

SHOWN = 64
"""Positions of a scale at which sets store logits and group outputs."""


EVERYTHING = 10**9
"""Entries of a cache that nothing is dropped of."""


def check(probe: Probe) -> None:
    """Run the set's accelerator and compare codes, logits, cache lengths and rows, and what its method stores."""
    model = build(probe)
    with reading_config(probe.folder):
        schedule: Schedule = tuple((int(h), int(w)) for _, h, w in probe.config["scale_schedule"])
        plain = replaced_guidance(greedy_plan(probe.config, len(schedule)))
        accelerator = accelerator_of(probe.config)
        facts = Facts(model.depth, model.groups, model.causal, model.shared_codes)
        plan = with_stored_draws(accelerator.plan(plain, schedule, facts), probe, schedule)
        executed = tuple(probe.config["executed_scales"])
    probe.exact("low_margin", torch.zeros(0, 3))
    seen = Observed(probe, model, schedule)
    condition = model.condition(Text((probe.input("text.feat"),)))
    dropped = Dropped(probe, model, condition, schedule)
    taps: tuple[Tap, ...] = (seen, Chosen(probe), dropped)
    compare_patterns(probe, schedule, plan)

    def tap(name: str, k: int, tensor: Tensor) -> None:
        for each in taps:
            each(name, k, tensor)

    for step in run(model, condition, schedule, [plan], [0], tap=tap):
        if probe.holds("decision.") and step.scale in (8, 9):
            name = {8: "decision.latent_old", 9: "decision.latent_new"}[step.scale]
            probe.numbers(name, resize(step.latent, schedule[4], "bilinear"), 2e-5)
    probe.numbers("latent_final", step.latent, 2e-5)
    seen.lengths |= dropped.lengths
    lengths = torch.tensor([[seen.lengths.get((k, layer), 0) for layer in range(model.depth)] for k in executed])
    rows = torch.tensor([[seen.rows.get((k, layer), 0) for layer in range(model.depth)] for k in executed])
    probe.exact("kv_len", lengths)
    probe.exact("kv_rows", rows)


def build(probe: Probe) -> Infinity:
    """The network, whose tokenizer has no weights."""
    require(probe.config, use_bit_label=1, apply_spatial_patchify=0, cfg_insertion_layer=[0])
    with reading_config(probe.folder):
        network = probe.config["transformer"]
        config = InfinityConfig(
            width=network["embed_dim"],
            depth=network["depth"],
            heads=network["num_heads"],
            chunks=network["block_chunks"],
            tokenizer=TokenizerConfig(bits=probe.config["codebook_dim"], encoder=None, decoder=None),
            text_channels=network["text_channels"],
            text_length=network["text_maxlen"],
            feed_forward=network["mlp_ratio"],
            eps=network["norm_eps"],
            rotary_reference=tuple(probe.config["rope_reference_grid"]),
        )
        with torch.device("meta"):
            model = Infinity(config)
        names = model.checkpoint_names
    fill(model, probe.weights, names.rename, names.reshape, source=probe.folder)
    return model


def replaced_guidance(plan: Plan) -> Plan:
    """A weight of 0 in a set means that the null branch ran alone, which is for the accelerator to say."""
    return Plan(tuple(replace(scale, guidance=scale.guidance or 1.0) for scale in plan))


def accelerator_of(config: dict[str, Any]) -> Accelerator:
    """The accelerator that a set's settings describe, in our words.

    Raises:
        OptionError: a method that no accelerator here reproduces.
    """
    method, last = config["method"], len(config["scale_schedule"])
    skipped = last - len(config["executed_scales"])
    if method == "none":
        return Nothing()
    if method == "skipvar":
        single = len(config["skipvar"]["single_branch_sides"])
        return DropLast(skipped) if skipped else GuidanceOff(single)
    if method == "stagevar":
        return StageVARReleased(skip=skipped) if skipped else StageVARPaper()
    if method in ("fastvar", "sparvar_csla", "scalekv"):
        return {"fastvar": _fastvar, "sparvar_csla": _sparvar, "scalekv": _scalekv}[method](config, skipped)
    raise OptionError(f"no accelerator here reproduces sets with method = {method!r} yet")


def _fastvar(config: dict[str, Any], skipped: int) -> FastVAR:
    own, depth, executed = config["fastvar"], config["transformer"]["depth"], config["executed_sides"]
    ratios = {int(side): ratio for side, ratio in own["prune_ratio"].items()}
    first, layers = executed.index(min(ratios)), own["pruned_layers"]
    return FastVAR(
        skipped,
        tuple(ratios.get(side, 0.0) for side in executed[first:]),
        layers[0] / depth,
        (layers[-1] + 1) / depth,
        first - executed.index(own["cache_side"]),
        tuple(NAMES[name] for name in own["sublayers"]),
    )


def _sparvar(config: dict[str, Any], skipped: int) -> Accelerator:
    own, depth = config["csla"], config["transformer"]["depth"]
    final, sides = config["scale_schedule"][-1][1], [h for _, h, _ in config["scale_schedule"]]
    if own["other_layers"] != "dense" or own["sparse_sides"] != sides[-len(own["sparse_sides"]) :]:
        raise OptionError("sparvar here is sparse at the last scales, in the last blocks, and dense elsewhere")
    pattern = SparVAR(
        (min(own["sparse_sides"]) - 0.5) / final,
        own["first_sparse_layer"] / depth,
        tuple(own["window_by_key_scale"]),
        own["sink_scales"],
        own["block_size"],
        cs4a=False,
    )
    return pattern + DropLast(skipped) if skipped else pattern


def _scalekv(config: dict[str, Any], skipped: int) -> Accelerator:
    own, depth, count = config["scalekv"], config["transformer"]["depth"], len(config["scale_schedule"])
    after = {int(k): row for k, row in own["capacity_after_scale"].items()}
    rows = [after.get(k, {"drafter_layers": (), "refiner": EVERYTHING}) for k in range(min(after), count)]
    table = tuple(
        tuple(row["drafter"] if layer in row["drafter_layers"] else row["refiner"] for layer in range(depth))
        for row in rows
    )
    cells = math.isqrt(own["window_size"])
    votes = ScaleKV(after=own["first_eviction_length"], table=table, cells=cells, pool=own["pool_kernel"])
    return votes + DropLast(skipped) if skipped else votes


def with_stored_draws(plan: Plan, probe: Probe, schedule: Schedule) -> Plan:
    """The plan with the set's ranks and random numbers in place of the accelerator's own."""
    for k, scale in enumerate(plan):
        if isinstance(scale.tokens, Sketch):
            ratios = tuple(probe.config["stagevar"]["rank_ratio"][f"scale{schedule[k][1]}"])
            plan = plan.replace([k], tokens=replace(scale.tokens, ratios=ratios, draws=StoredDraws(probe)))
    return plan


@dataclass(frozen=True, slots=True, eq=False)
class StoredDraws:
    """Rows and projections that a set stores; the law that the engine would have drawn from is compared."""

    probe: Probe

    def rows(self, law_RM: Tensor, count: int, context: TokenContext) -> Tensor:
        self.probe.numbers(f"prob.{context.scale}.{context.group}", law_RM[0], 1e-9)
        return self.probe.input(f"index.{context.scale}.{context.group}").long()[None]

    def projection(self, count: int, context: TokenContext) -> Tensor:
        pool = self.probe.input("noise_pool")
        M = context.grid[0] * context.grid[1]
        offset = (8 * context.scale + context.group) * 10007
        at = (offset + torch.arange(M * count)) % len(pool)
        return pool[at].view(M, count).float() / 16 / count**0.5


class Observed:
    """A tap that compares what sets store per scale, and notes keys and rows of self-attention."""

    def __init__(self, probe: Probe, model: Infinity, schedule: Schedule) -> None:
        self.probe, self.schedule = probe, schedule
        self.lengths: dict[tuple[int, int], int] = {}
        self.rows: dict[tuple[int, int], int] = {}
        self.checks: dict[str, Callable[[int, str, Tensor], None]] = {
            "logits": lambda k, _, x: probe.numbers(f"logits.{k}", x[0, self.shown(k)], 1e-3),
            "codes": lambda k, _, x: probe.exact(f"bits.{k}", x[0]),
            "reduced": lambda k, group, x: probe.numbers(f"proj.{k}.{group}", x[-1], 1e-3),
            "block": self.block,
            "group": lambda k, group, x: self.group_output(k, int(group), x),
            "attended": self.attended,
        }
        self.layers_per_group = model.depth // model.groups

    def __call__(self, name: str, scale: int, tensor: Tensor) -> None:
        kind, _, index = name.partition(".")
        if kind in self.checks:
            self.checks[kind](scale, index, tensor)

    def shown(self, k: int) -> Tensor:
        """The positions of scale k that sets store."""
        count = Scale(self.schedule, k).tokens
        return torch.arange(count) if count <= SHOWN else (2 * torch.arange(SHOWN) + 1) * count // (2 * SHOWN)

    def block(self, k: int, layer: str, x: Tensor) -> None:
        """Groups end behind every ``layers_per_group`` blocks, whether or not the scale is reduced in groups."""
        if x.shape[1] == Scale(self.schedule, k).tokens and (int(layer) + 1) % self.layers_per_group == 0:
            self.group_output(k, int(layer) // self.layers_per_group, x)

    def group_output(self, k: int, group: int, x: Tensor) -> None:
        name = f"group_out.{k}.{group}"
        if name not in {row.tensor for row in self.probe.rows}:
            self.probe.numbers(name, x[-1, self.shown(k)], 1e-3)

    def attended(self, k: int, layer: str, keys: Tensor) -> None:
        self.lengths[k, int(layer)], self.rows[k, int(layer)] = keys.shape[2], keys.shape[0]
