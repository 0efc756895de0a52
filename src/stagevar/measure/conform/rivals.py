"""What sets of FastVAR, SparVAR and ScaleKV store besides codes and logits: chosen rows, visible keys, dropped keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stagevar.engine.contract.block import BlockContext, Condition
from stagevar.engine.grids.grid import Scale, Schedule, scales
from stagevar.engine.grids.rows import Role
from stagevar.engine.plan.evict import WindowVotes
from stagevar.engine.plan.local import Local, token_tables
from stagevar.engine.plan.look import Look, Places, joined
from stagevar.engine.plan.memory import Memory
from stagevar.engine.plan.plan import Plan
from stagevar.families.infinity.network import Infinity
from stagevar.measure.conform.conform import Probe

NAMES: dict[str, Role] = {"sa": "attention", "ca": "cross", "ffn": "feed_forward"}
"""Parts of a block, in the words of the sets and in ours."""


class Chosen:
    """A tap that compares the rows that parts process, and the outputs of the first parts that leave rows out."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        own = probe.config.get("fastvar", {"pruned_layers": (), "sublayers": ()})
        self.shape = len(own["pruned_layers"]), len(own["sublayers"])
        self.stream = torch.empty(0)
        self.rows: list[Tensor] = []
        self.gaps: list[Tensor] = []

    def __call__(self, name: str, k: int, tensor: Tensor) -> None:
        kind, _, rest = name.partition(".")
        layer, _, role = rest.partition(".")
        if not self.shape[0]:
            return
        if kind in ("embed", "block"):
            self.stream = tensor
        elif kind == "chosen":
            self.note(tensor)
            if len(self.rows) == self.shape[0] * self.shape[1]:
                self.compare(k)
        elif kind == "part":
            self.stream = self.stream + tensor
            short = next(short for short, long in NAMES.items() if long == role)
            self.probe.numbers(f"restored.{k}.layer{layer}.{short}", tensor[0], 1e-3)

    def note(self, index: Tensor) -> None:
        """Keep the rows, and by which share of the last one chosen the first one left out falls behind it."""
        distance = (self.stream - self.stream.mean(1, keepdim=True)).square().sum(-1)
        left = torch.ones_like(distance).scatter(1, index, 0).bool()
        least = distance.masked_fill(left, torch.inf).amin(1)
        self.rows.append(index)
        self.gaps.append((least - distance.masked_fill(~left, 0).amax(1)) / least)

    def compare(self, k: int) -> None:
        shape = *self.shape, len(self.rows[0])
        self.probe.exact(f"keep.{k}", torch.stack(self.rows).view(*shape, -1), ordered=False)
        self.probe.numbers(f"keep_gap.{k}", torch.stack(self.gaps).view(shape), 2e-5)
        self.rows, self.gaps = [], []


def compare_patterns(probe: Probe, schedule: Schedule, plan: Plan) -> None:
    """Compare which keys queries see, before and after rows are gathered into blocks."""
    rows = tuple(at.tokens for at in scales(schedule))
    for k, scale in enumerate(plan):
        for pattern in scale.attend:
            if not isinstance(pattern, Local) or not probe.holds(f"block_mask.{k}"):
                continue
            start = sum(rows[:k])
            runs: Places = ((start, start + rows[k]),)
            look = Look(Scale(schedule, k), 0, 1, rows, runs, joined(((0, start),), runs), Memory())
            probe.exact(f"block_mask.{k}", torch.from_numpy(pattern.table(look)))
            tables = [torch.from_numpy(t) for t in token_tables(schedule, rows, k, pattern.windows, pattern.sinks)]
            asked = probe.input(f"token_mask_rows.{k}").long()
            probe.exact(f"token_mask.{k}", torch.cat(tables, 1)[asked])


class Dropped:
    """A tap that compares what is dropped from caches, and what would be dropped behind the last scale.

    The engine drops nothing there, as nothing reads it, so the rule is asked here. Votes are made anew from the stream
    and the keys.
    """

    def __init__(self, probe: Probe, model: Infinity, condition: Condition, schedule: Schedule) -> None:
        self.probe, self.model, self.condition, self.schedule = probe, model, condition, schedule
        self.rows = tuple(at.tokens for at in scales(schedule))
        self.rules = _rules(probe.config) if "scalekv" in probe.config else {}
        self.lengths: dict[tuple[int, int], int] = {}
        self.places: dict[int, Places] = {}
        self.stream = torch.empty(0)
        self.ties: dict[str, list[Tensor]] = {}
        self.evicting: list[int] = []

    def __call__(self, name: str, k: int, tensor: Tensor) -> None:
        kind, _, layer = name.partition(".")
        if not self.rules:
            return
        if kind == "begin":
            self.ties, self.evicting = {"total": [], "kept": [], "gap": []}, []
        elif kind in ("embed", "block"):
            self.stream = tensor
        elif kind == "attended":
            self.attended(k, int(layer), tensor)
        elif kind == "kept":
            self.kept(k, int(layer), tensor)
        elif kind == "logits":
            self.compare(k)

    def attended(self, k: int, layer: int, keys: Tensor) -> None:
        start = sum(self.rows[:k])
        own: Places = ((start, start + self.rows[k]),)
        self.places[layer] = joined(self.places.get(layer, ()), own)
        rule = self.rules.get(k)
        if rule is None or rule.capacities[layer] >= keys.shape[2]:
            return
        look = Look(Scale(self.schedule, k), layer, self.model.depth, self.rows, own, self.places[layer], Memory())
        voters = torch.tensor(rule.voters(look))
        self.probe.exact(f"window.{k}", start + voters) if not self.evicting else None
        context: Any = BlockContext(layer, self.condition, None, None)  # type: ignore[arg-type]
        queries = self.model.layers[layer].queries(self.stream[:, voters], context)
        slots = rule.keep(keys, lambda: queries, look)
        self.evicting.append(layer)
        self.note(rule.votes(keys, queries, look), slots)
        if k == self.probe.config["executed_scales"][-1]:
            places = self.places[layer]
            assert isinstance(places, Tensor)
            self.kept(k, layer, places.expand(*slots.shape[:2], -1).gather(2, slots))

    def note(self, votes: Tensor, slots: Tensor) -> None:
        """How many entries share the lowest vote that stays, how many of them stay, and how far the next one lies."""
        window = votes == torch.inf
        kept = torch.zeros_like(window).scatter(2, slots, True)
        lowest = votes.masked_fill(window | ~kept, torch.inf).amin(2, keepdim=True)
        tied = votes == lowest
        below = votes.masked_fill(votes >= lowest, -torch.inf).amax(2, keepdim=True)
        largest = votes.masked_fill(window, 0).abs().amax(2, keepdim=True)
        gap = torch.where(below == -torch.inf, 9.0, (lowest - below) / largest)
        for name, value in (("total", tied.sum(2)), ("kept", (tied & kept).sum(2)), ("gap", gap[..., 0])):
            self.ties[name].append(value)

    def kept(self, k: int, layer: int, places: Tensor) -> None:
        self.places[layer], self.lengths[k, layer] = places, places.shape[2]
        self.probe.exact(f"kept.{k}.{layer}", places)

    def compare(self, k: int) -> None:
        if self.evicting:
            self.probe.exact(f"evicting_layers.{k}", torch.tensor(self.evicting))
            self.probe.exact(f"ties_total.{k}", torch.stack(self.ties["total"]))
            self.probe.exact(f"ties_kept.{k}", torch.stack(self.ties["kept"]))
            self.probe.numbers(f"boundary_gap.{k}", torch.stack(self.ties["gap"]), 1e-5)


def _rules(config: dict[str, Any]) -> dict[int, WindowVotes]:
    """The rule of each scale that drops, as a set describes it."""
    own, depth = config["scalekv"], config["transformer"]["depth"]
    held = [0]
    for _, h, w in config["scale_schedule"]:
        held.append(held[-1] + h * w)
    rules = {}
    for text, row in own["capacity_after_scale"].items():
        entries = (row["drafter"] if layer in row["drafter_layers"] else row["refiner"] for layer in range(depth))
        if held[int(text) + 1] > own["first_eviction_length"]:
            rules[int(text)] = WindowVotes(tuple(entries), round(own["window_size"] ** 0.5), own["pool_kernel"])
    return rules
