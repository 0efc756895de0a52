"""Self-attention to keys that an earlier scale chose by its attention, and to the neighbours of each query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from stagevar.engine.grids.grid import Grid, Scale
from stagevar.engine.plan.look import Look, as_tensor, count
from stagevar.engine.plan.memory import MapKind
from stagevar.engine.plan.parts import EVERY, Layers, check_layers
from stagevar.engine.plan.select import FLOOR, TIE, tied_top
from stagevar.errors import OptionError


@dataclass(frozen=True, slots=True)
class SelfSimilar:
    """Groups of consecutive queries attend to the keys that the nearest group of an earlier scale attended to most.

    At the scale that decides, all rows attend to all keys. Per head and group those keys are chosen that have most
    attention of the group's queries in sum. What attention to these alone would miss there is the correction. A later
    scale attends to the chosen keys and to a run of its own keys that holds a window around each query of the group,
    and adds the correction, resampled to its grid. If these are all keys, it attends to them as the plain run does.

    Where rows or keys were dropped, all this is a mask over those that are left, which saves no time; the correction of
    rows that did not run is zero.

    Attributes:
        top: share of the keys that is chosen.
        group: consecutive tokens that share their keys.
        multiple: numbers of keys are multiples of this.
        windows: width of the window at each of the last scales of the schedule, in tokens of that scale.
        source: the scale that decided; None decides at this one.
        through: scales between that and this one whose keys were added to the chosen ones.
        layers: the blocks of the network in which this holds.
    """

    top: float = 0.2
    group: int = 192
    multiple: int = 112
    windows: tuple[int, ...] = (7, 9)
    source: int | None = None
    through: tuple[int, ...] = ()
    layers: Layers = EVERY

    def __post_init__(self) -> None:
        check_layers(self.layers)
        if not 0 < self.top <= 1 or self.group < 1 or self.multiple < 1:
            raise OptionError("SelfSimilar takes a share of keys in (0, 1], groups from 1 and multiples of 1 or more")
        if not self.windows or min(self.windows) < 1:
            raise OptionError(f"windows must be widths of 1 or more, not {self.windows}")

    @property
    def needs(self) -> tuple[tuple[MapKind, int], ...]:
        if self.source is None:
            return ()
        return ("correction", self.source), ("keys", (self.source, *self.through)[-1])

    @property
    def leaves(self) -> tuple[MapKind, ...]:
        return ("correction", "keys") if self.source is None else ("keys",)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /, *, scale: float, look: Look) -> Tensor:
        return self._decide(q, k, v, scale, look) if self.source is None else self._follow(q, k, v, scale, look)

    def products(self, look: Look) -> int:
        rows, keys = count(look.queries), count(look.keys)
        if self.source is None:
            kept = self.chosen(keys)
            return 2 * rows * keys + (rows * keys + 2 * rows * (kept if whole(look) else keys)) * (kept < keys)
        return 2 * rows * (min(keys, self.listed(look)) if whole(look) else keys)

    def chosen(self, keys: int) -> int:
        """How many of all keys the scale that decides chooses."""
        return keys if self.top == 1 else min(keys, self.multiple * max(1, round(self.top * keys / self.multiple)))

    def listed(self, look: Look) -> int:
        """How many keys a group of a later scale attends to, if none was dropped."""
        assert self.source is not None
        schedule, added = look.at.schedule, (*self.through, look.at.k)
        own = sum(near(schedule[j], self.group, self._window(Scale(schedule, j)), self.multiple)[1] for j in added)
        return self.chosen(sum(look.rows[: self.source + 1])) + own

    def _decide(self, q: Tensor, k: Tensor, v: Tensor, scale: float, look: Look) -> Tensor:
        """Attention to all keys; the chosen ones and the correction go to memory."""
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        kept, places, missed = self.chosen(k.shape[2]), as_tensor(look.keys, q.device), torch.zeros_like(out)
        shape = *k.shape[:2], self._groups(look), kept
        if kept == k.shape[2]:
            chosen = places[:, :, None].expand(shape)
        elif whole(look):
            slots, parts = list[Tensor](), list[Tensor]()
            for rows in self._slices(look):
                slots.append(self._most(attention(q[:, :, rows], k, scale).sum(2, keepdim=True), kept))
                parts.append(attended(q[:, :, rows], k, v, slots[-1][:, :, 0], scale))
            chosen, missed = torch.cat(slots, 2), out - torch.cat(parts, 2)
        else:
            groups = self._group_of(look, q.device)[..., None].expand(*q.shape[:3], k.shape[2])
            mass = q.new_zeros(*shape[:3], k.shape[2], dtype=torch.float32)
            slots_RHGK = self._most(mass.scatter_add(2, groups, attention(q, k, scale)), kept)
            seen = torch.zeros_like(mass, dtype=torch.bool).scatter(3, slots_RHGK, True).gather(2, groups)
            missed = out - F.scaled_dot_product_attention(q, k, v, seen, scale=scale)
            chosen = places[:, :, None].expand(*shape[:3], -1).gather(3, slots_RHGK)
        look.memory.put("keys", (look.layer, "attention"), look.at.k, chosen, look.at.grid)
        rows_RMC = self._spread(missed, look).transpose(1, 2).flatten(2)
        look.memory.put("correction", (look.layer, "attention"), look.at.k, rows_RMC, look.at.grid)
        return out

    def _follow(self, q: Tensor, k: Tensor, v: Tensor, scale: float, look: Look) -> Tensor:
        """Attention to the chosen keys and to the scale's own near ones, corrected."""
        site, grid = (look.layer, "attention"), look.at.grid
        (_, source), (_, latest) = self.needs
        chosen = look.memory.stored("keys", site, latest)
        starts, length = near(grid, self.group, self._window(look.at), self.multiple)
        first = look.start + look.rows[look.at.k] - look.at.tokens
        own = torch.tensor(starts, device=q.device)[:, None] + first + torch.arange(length, device=q.device)
        nearest = torch.tensor(matched(len(starts), chosen.shape[2]), device=q.device)
        listed = torch.cat([chosen[:, :, nearest], own.expand(*chosen.shape[:2], -1, -1)], 3)
        look.memory.put("keys", site, look.at.k, listed, grid)
        if whole(look) and listed.shape[3] >= k.shape[2]:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        correction = look.memory.get("correction", site, source, grid).unflatten(2, (q.shape[1], -1)).transpose(1, 2)
        correction = F.pad(correction, (0, 0, look.rows[look.at.k] - look.at.tokens, 0))
        if whole(look):
            slices = zip(self._slices(look), listed.unbind(2), strict=True)
            return torch.cat([attended(q[:, :, rows], k, v, slots, scale) for rows, slots in slices], 2) + correction
        groups = self._group_of(look, q.device)[..., None]
        table = torch.zeros(*listed.shape[:3], sum(look.rows[: look.at.k + 1]), dtype=torch.bool, device=q.device)
        keys = as_tensor(look.keys, q.device)[:, :, None].expand(*listed.shape[:3], -1)
        seen = table.scatter(3, listed, True).gather(3, keys).gather(2, groups.expand(*q.shape[:3], k.shape[2]))
        inside = (as_tensor(look.queries, q.device) - look.start)[..., None].expand_as(q)
        return F.scaled_dot_product_attention(q, k, v, seen, scale=scale) + correction.gather(2, inside)

    def _window(self, at: Scale) -> int:
        """Width of the window at a scale; scales before those of ``windows`` have the first one."""
        return self.windows[max(0, at.k - len(at.schedule) + len(self.windows))]

    def _groups(self, look: Look) -> int:
        return -(-look.at.tokens // self.group)

    def _slices(self, look: Look) -> Iterator[slice]:
        """The rows of each group; rows ahead of the tokens belong to the first one."""
        ahead = look.rows[look.at.k] - look.at.tokens
        edges = [0, *(ahead + g * self.group for g in range(1, self._groups(look))), ahead + look.at.tokens]
        yield from (slice(*edge) for edge in pairwise(edges))

    def _group_of(self, look: Look, device: torch.device) -> Tensor:
        """The group of each row that attends: (R or 1, H or 1, m)."""
        ahead = look.rows[look.at.k] - look.at.tokens
        return (as_tensor(look.queries, device) - look.start - ahead).clamp(min=0) // self.group

    def _most(self, mass: Tensor, kept: int) -> Tensor:
        """Slots (..., kept) of the keys with most attention (..., L), ascending; of tied ones the first."""
        lowest = mass.topk(kept, dim=-1).values[..., -1:]
        return tied_top(mass, kept, TIE * (lowest + FLOOR * mass.amax(-1, keepdim=True)))

    def _spread(self, rows_RHmD: Tensor, look: Look) -> Tensor:
        """Rows that attend at their tokens of the grid, zero elsewhere."""
        ahead, (R, H, _, D) = look.rows[look.at.k] - look.at.tokens, rows_RHmD.shape
        if not whole(look):
            inside = (as_tensor(look.queries, rows_RHmD.device) - look.start)[..., None].expand_as(rows_RHmD)
            rows_RHmD = rows_RHmD.new_zeros(R, H, look.rows[look.at.k], D).scatter(2, inside, rows_RHmD)
        return rows_RHmD[:, :, ahead:]


def whole(look: Look) -> bool:
    """Whether all rows of the scale attend to all rows of the sequence so far."""
    end = look.start + look.rows[look.at.k]
    return look.queries == ((look.start, end),) and look.keys == ((0, end),)


def attention(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """What each query attends to, in float32: (R, H, m, L)."""
    return (q @ k.mT).float().mul_(scale).softmax(-1)


def attended(q: Tensor, k: Tensor, v: Tensor, slots_RHK: Tensor, scale: float) -> Tensor:
    """Attention of all queries to the same keys."""
    k, v = (each.gather(2, slots_RHK[..., None].expand(-1, -1, -1, each.shape[3])) for each in (k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def matched(groups: int, earlier: int) -> list[int]:
    """For each of some groups of a scale the nearest group of an earlier scale."""
    middles = ((g + 0.5) / groups * earlier - 0.5 for g in range(groups))
    return [min(max(round(middle), 0), earlier - 1) for middle in middles]


@lru_cache(maxsize=64)
def near(grid: Grid, group: int, window: int, multiple: int) -> tuple[tuple[int, ...], int]:
    """A run of tokens per group that holds the windows of its tokens: where each run starts, and the length of all,
    which is that of the longest, rounded up to a multiple."""
    (H, W), reach = grid, window // 2
    ends = []
    for first in range(0, H * W, group):
        rows = [divmod(token, W) for token in range(first, min(first + group, H * W))]
        least = min(max(0, y - reach) * W + max(0, x - reach) for y, x in rows)
        ends.append((least, max(min(H - 1, y + reach) * W + min(W - 1, x + reach) for y, x in rows) + 1))
    length = min(H * W, -(-max(end - least for least, end in ends) // multiple) * multiple)
    return tuple(min(least, H * W - length) for least, _ in ends), length
