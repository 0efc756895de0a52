"""Train the scenes model from nothing: ``python recipes/scenes/train.py --run runs/scenes``.

One command, seeded, resumable after a kill at any moment (call it again), on CUDA if there is any, else on all cores.
Pictures are rendered and tokenised on the fly. A step trains on the scales up to some n, because a picture's early
scales are cheap and decide its composition; the two largest scales are trained on a random crop of the same place.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizer import fit
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from stagevar.loop.contract import Block, BlockContext, Condition, token_rows
from stagevar.loop.latent import resize
from stagevar.models.scenes import Scenes, ScenesConfig
from stagevar.scenes.captions import NULL_TOKENS, Scene, sample_scene, tokenize
from stagevar.scenes.render import render_batch

MIXTURE = (  # (until share of the run, {number of scales: probability})
    (0.45, {5: 0.10, 6: 0.30, 7: 0.30, 8: 0.30}),
    (1.00, {6: 0.05, 7: 0.10, 8: 0.40, 10: 0.45}),
)
NULL_SHARE = 0.1
CODE_NOISE = 0.15
MASKED = 5
"""The first scales share one masked attention; each later one attends to all before it without a mask."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/scenes"), help="folder of checkpoints and log")
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--tokens", type=int, default=4400, help="tokens per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon", type=float, default=0.02, help="learning rate of matrices")
    parser.add_argument("--adam", type=float, default=2e-3, help="learning rate of all else")
    parser.add_argument("--every", type=int, default=250, help="steps between validations and checkpoints")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    Training(options).train()


class Training:
    """State of a run: model, its moving average, optimisers, step."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(options.seed)
        self.model = initialised(Scenes(ScenesConfig()))
        fit(self.model.tokenizer, seed=options.seed)
        scenes = [sample_scene(random.Random(f"start {i}")) for i in range(600)]
        set_statistics(self.model, render(scenes, random.Random("start")))
        self.model.to(self.device)
        self.average = Scenes(ScenesConfig()).to(self.device)
        self.average.load_state_dict(self.model.state_dict())
        self.optimisers = optimisers(self.model, options)
        self.step, self.seconds = 0, 0.0
        self.sums: dict[int, list[float]] = {}
        if (options.run / "last.pt").exists():
            self.resume()

    def train(self) -> None:
        options, began = self.options, time.perf_counter()
        before = self.seconds
        while self.step < options.steps:
            rng = random.Random(f"{options.seed} {self.step}")
            torch.manual_seed(options.seed * 1_000_003 + self.step)
            rate = learning_rate(self.step, options.steps)
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["base"] * rate
            count = scales_of_step(self.step / options.steps, rng)
            self.update(*batch(self.model, count, options.tokens, rng))
            self.step += 1
            self.seconds = before + time.perf_counter() - began
            if self.step % options.every == 0 or self.step in (20, options.steps):
                self.report()
                self.save()

    def update(self, words: Tensor, codes: list[Tensor], latents: list[Tensor], crops: dict[int, Tensor]) -> None:
        losses = scale_losses(self.model, words, codes, latents, crops)
        weights = [min(self.model.config.grids[k], 12 if k >= 8 else 16) for k in range(len(losses))]
        loss = sum(w * each for w, each in zip(weights, losses, strict=True)) / sum(weights)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        decay = min(0.998, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        for k, each in enumerate(losses):
            self.sums.setdefault(k, []).append(float(each.detach()))

    def report(self) -> None:
        row: dict[str, Any] = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        row["train"] = [round(sum(v) / len(v), 3) for _, v in sorted(self.sums.items())]
        row["validation"] = [round(v, 3) for v in validation(self.average)]
        self.sums = {}
        with (self.options.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        torch.save(state, self.options.run / "last.tmp")
        os.replace(self.options.run / "last.tmp", self.options.run / "last.pt")

    def resume(self) -> None:
        state = torch.load(self.options.run / "last.pt", weights_only=True, map_location=self.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def initialised(model: Scenes) -> Scenes:
    """Residual branches start at zero with gain 1; words and levels start distinct."""
    for block in model.blocks:
        for part in (block.attention.proj, block.cross.proj, block.feed_forward.down):
            nn.init.zeros_(part.weight)
    for table in model.modulation.tables:
        nn.init.ones_(table[:2])
    for linear in (model.modulation.shared, model.head.modulation, model.head.proj):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    nn.init.normal_(model.text.words.weight, std=0.5)
    nn.init.normal_(model.text.positions, std=0.1)
    nn.init.normal_(model.level.weight, std=0.1)
    return model


def optimisers(model: Scenes, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and perceptrons, AdamW for embeddings, norms, biases and the head."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inside = name.startswith(("blocks.", "text.layers.", "text.summary."))
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=options.muon, momentum=0.95, weight_decay=0.0)
    adam = torch.optim.AdamW(rest, lr=options.adam, betas=(0.9, 0.97), weight_decay=0.0)
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["base"] = group["lr"]
    return [muon, adam]


def learning_rate(step: int, steps: int) -> float:
    """Share of the base rate: warm-up over 40 steps, constant, linear decay over the last 35%."""
    return min(1.0, (step + 1) / 40, max(0.01, (1 - step / steps) / 0.35))


def scales_of_step(share: float, rng: random.Random) -> int:
    chances = next(chances for until, chances in MIXTURE if share < until)
    return rng.choices(list(chances), list(chances.values()))[0]


def render(scenes: list[Scene], rng: random.Random) -> Tensor:
    """Pictures (n, 3, 64, 64) in [0, 1]."""
    return torch.from_numpy(render_batch(scenes, rng)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def set_statistics(model: Scenes, pictures: Tensor) -> None:
    """Scale of the input latents and log-frequencies of the codes; codes beyond a scale's book are ruled out."""
    codes, latents = tokenised(model, pictures, len(model.config.grids), 0.0)
    model.input_scale.copy_(latents[7].std((0, 2, 3)).clamp(min=0.03))
    for k, each in enumerate(codes):
        frequency = torch.bincount(each.flatten(), minlength=model.level_bias.shape[1]).float() + 0.3
        model.level_bias[k] = (frequency / frequency.sum()).log()
        model.level_bias[k, model.config.codes[k] :] = -30.0


@torch.no_grad()
def tokenised(model: Scenes, pictures: Tensor, count: int, noise: float) -> tuple[list[Tensor], list[Tensor]]:
    """Codes (n, M) of the first ``count`` scales and the latent (n, D, H, W) before each.

    A share up to ``noise`` of the codes that are fed forward is replaced by one of the 16 nearest, and later scales
    code what that left over (the self-correction of Infinity, arXiv 2412.04431).
    """
    tokenizer = model.tokenizer
    rest = tokenizer.features(pictures)
    latent, codes, latents = torch.zeros_like(rest), [], []
    share = torch.rand(len(rest), 1, device=rest.device) * noise
    for k, side in enumerate(tokenizer.grids[:count]):
        vectors = token_rows(resize(rest, (side, side), "area"))
        exact = tokenizer.nearest(k, vectors.flatten(0, 1)).view(len(rest), -1)
        codes.append(exact)
        latents.append(latent)
        fed, wrong = exact.clone(), torch.rand(exact.shape, device=rest.device) < share
        if wrong.any():
            near = torch.cdist(vectors[wrong], tokenizer.codebook[k, : tokenizer.codes[k]]).topk(16, largest=False)
            pick = torch.randint(0, 16, (len(near.indices), 1), device=rest.device)
            fed[wrong] = near.indices.gather(1, pick)[:, 0]
        update = tokenizer.upsampled(k, fed)
        latent, rest = latent + update, rest - update
    return codes, latents


def crop(grids: tuple[int, ...], rng: random.Random) -> dict[int, Tensor]:
    """Token indices of one square region, half the side, at the two largest scales."""
    y, x = rng.randrange(0, 5) / 8, rng.randrange(0, 5) / 8
    chosen = {}
    for k in (len(grids) - 2, len(grids) - 1):
        side, half = grids[k], grids[k] // 2
        rows = torch.arange(half) + round(y * side)
        chosen[k] = (rows[:, None] * side + torch.arange(half) + round(x * side)).flatten()
    return chosen


def batch(
    model: Scenes, count: int, tokens: int, rng: random.Random
) -> tuple[Tensor, list[Tensor], list[Tensor], dict[int, Tensor]]:
    """Words (n, T), codes and input latents per scale, and the crops of one step of about ``tokens`` tokens."""
    grids, device = model.config.grids, model.device
    crops = crop(grids, rng) if count == len(grids) else {}
    length = sum(len(crops[k]) if k in crops else grids[k] ** 2 for k in range(count))
    scenes = [sample_scene(rng) for _ in range(max(4, round(tokens / length)))]
    codes, latents = tokenised(model, render(scenes, rng).to(device), count, CODE_NOISE)
    words = [NULL_TOKENS if rng.random() < NULL_SHARE else tokenize(scene.caption) for scene in scenes]
    codes = [each[:, crops[k]] if k in crops else each for k, each in enumerate(codes)]
    return torch.tensor(words, device=device), codes, latents, crops


def scale_losses(
    model: Scenes, words: Tensor, codes: list[Tensor], latents: list[Tensor], crops: dict[int, Tensor]
) -> list[Tensor]:
    """Cross-entropy per scale in nats, all scales in one pass."""
    schedule, count = model.schedule(), len(codes)
    with torch.autocast(model.device.type, torch.bfloat16), sdpa_kernel(training_kernels(model.device)):
        condition = model.words_condition(words)
        inputs, ropes = [], []
        for k in range(count):
            x, rope = model.embed(latents[k], condition, schedule, k), model.rope(schedule, k)
            inputs.append(x[:, crops[k]] if k in crops else x)
            ropes.append(rope[crops[k]] if k in crops else rope)
        lengths = [x.shape[1] for x in inputs]
        attend = BlockCausal(lengths, model.device)
        x, rope = torch.cat(inputs, 1), torch.cat(ropes)
        for layer, block in enumerate(model.blocks):
            x = compiled_block(block, x, condition.modulation[layer], *condition.text_kv[layer], rope, attend)
    parts = model.head(x, condition.pooled.float()).float().split(lengths, 1)
    return [
        F.cross_entropy((part + model.level_bias[k]).flatten(0, 1), codes[k].flatten()) for k, part in enumerate(parts)
    ]


@functools.partial(torch.compile, dynamic=False)
def compiled_block(
    block: Block, x: Tensor, modulation: Tensor, keys: Tensor, values: Tensor, rope: Tensor, attend: BlockCausal
) -> Tensor:
    """One block; all layers share one graph per number of scales, which saves about 30% of a step."""
    nothing = x.new_empty(0)
    condition = Condition(nothing, nothing, modulation=(modulation,), text_kv=((keys, values),))
    out: Tensor = block(x, BlockContext(0, condition, rope, attend))
    return out


def training_kernels(device: torch.device) -> list[SDPBackend]:
    """The fused CPU kernel has a slow backward pass."""
    return [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class BlockCausal:
    """Self-attention of all scales at once: a token sees its own scale and the ones before."""

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
        self.ends = ends[MASKED - 1 :]
        level = torch.cat([torch.full((length,), k, device=device) for k, length in enumerate(lengths[:MASKED])])
        self.mask = torch.zeros(len(level), len(level), device=device, dtype=torch.bfloat16)
        self.mask.masked_fill_(level[:, None] < level[None], -math.inf)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
        out: Tensor = SegmentedAttention.apply(q * scale, k, v, self.ends, self.mask)
        return out


class SegmentedAttention(torch.autograd.Function):
    """Explicit soft-max attention, segment by segment; keys end where the segment of the query ends."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ends: list[int], mask: Tensor) -> Tensor:
        probabilities, outputs = [], []
        for index, (start, end) in enumerate(segments(ends)):
            scores = q[:, :, start:end] @ k[:, :, :end].mT
            probabilities.append((scores + mask if index == 0 else scores).softmax(-1))
            outputs.append(probabilities[-1] @ v[:, :, :end])
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.ends = ends
        return torch.cat(outputs, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probabilities = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end), p in zip(segments(ctx.ends), probabilities, strict=True):
            g = grad[:, :, start:end]
            dv[:, :, :end] += p.mT @ g
            ds = torch._softmax_backward_data(g @ v[:, :, :end].mT, p, -1, p.dtype)
            dq[:, :, start:end] = ds @ k[:, :, :end]
            dk[:, :, :end] += ds.mT @ q[:, :, start:end]
        return dq, dk, dv, None, None


def segments(ends: list[int]) -> Iterator[tuple[int, int]]:
    yield from zip([0, *ends[:-1]], ends, strict=True)


@torch.no_grad()
def validation(model: Scenes) -> list[float]:
    """Cross-entropy per scale in nats on 32 pictures of held-out scenes."""
    rng = random.Random("validation")
    scenes = [sample_scene(rng, held_out=True) for _ in range(32)]
    count = len(model.config.grids)
    codes, latents = tokenised(model, render(scenes, rng).to(model.device), count, 0.0)
    words = torch.tensor([tokenize(scene.caption) for scene in scenes], device=model.device)
    chosen = crop(model.config.grids, rng)
    codes = [each[:, chosen[k]] if k in chosen else each for k, each in enumerate(codes)]
    return [float(each) for each in scale_losses(model, words, codes, latents, chosen)]


if __name__ == "__main__":
    main()
