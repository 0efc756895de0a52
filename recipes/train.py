"""Train a small model of a world: ``python recipes/train.py --world photos --run runs/photos``.

One command, seeded, resumable after a kill at any moment (call it again), on CUDA if there is any, else on all cores.
It begins with nothing, or with the weights of a model (``--from``). The rate falls over the last third of ``--steps``,
so a run is brought to its end early by calling it again with fewer.
Pictures are rendered and tokenised on the fly. A step trains on the scales up to some n, because a picture's early
scales are cheap and decide its composition; the two largest scales are trained on a random crop of the same place.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from data import Example, Spoil, batch, crop, set_statistics, tokenised
from objective import scale_losses
from rich.progress import Progress, TimeElapsedColumn
from sheet import sheet
from tokenizer import fit_axes, fit_codes
from torch import Tensor, nn
from worlds import WORLDS, World, render

from stagevar.engine.contract.model import ScaleModel
from stagevar.families.scenes.network import Scenes
from stagevar.pipeline import Pipeline

Mixture = tuple[tuple[float, dict[int, float]], ...]

MIXTURE: Mixture = (  # (until share of the run, {number of scales: probability})
    (0.45, {5: 0.10, 6: 0.30, 7: 0.30, 8: 0.30}),
    (1.00, {6: 0.05, 7: 0.10, 8: 0.40, 10: 0.45}),
)
ONWARD: Mixture = (
    (0.65, {5: 0.30, 6: 0.25, 7: 0.15, 8: 0.15, 10: 0.15}),
    (1.00, {5: 0.10, 6: 0.15, 7: 0.15, 8: 0.20, 10: 0.40}),
)
"""Of a run that goes on with a model of its world: what that lacks is composition, and its last scales are kept."""


def main() -> None:
    options = arguments(__doc__).parse_args()
    options.run = options.run or Path("runs") / options.world
    options.run.mkdir(parents=True, exist_ok=True)
    Training(options).train()


def arguments(about: str | None) -> argparse.ArgumentParser:
    """The options of a run; a recipe with other defaults sets them."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="scenes", choices=WORLDS)
    parser.add_argument(
        "--run", type=Path, help="folder of checkpoints and log; by default in runs, named after what is learnt"
    )
    parser.add_argument("--from", dest="begin", help="a model to begin with: its name or folder")
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--tokens", type=int, default=4400, help="tokens per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon", type=float, default=0.02, help="learning rate of matrices")
    parser.add_argument("--adam", type=float, default=2e-3, help="learning rate of all else")
    parser.add_argument("--every", type=int, default=250, help="steps between validations and checkpoints")
    parser.add_argument("--sheet", type=int, default=1000, help="steps between sheets of samples")
    return parser


class Training:
    """State of a run: model, its moving average, optimisers, step."""

    mixture: Mixture = MIXTURE

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.world = WORLDS[options.world](options.run)
        self.model, self.average = (self.network().to(self.device) for _ in range(2))
        self.optimisers = optimisers(self.model, options)
        self.step, self.seconds = 0, 0.0
        self.sums: dict[int, list[float]] = {}
        if (options.run / "last.pt").exists():
            self.resume()
        else:
            self.start()

    def network(self) -> Scenes:
        return Scenes(self.world.config, self.options.world, self.world.defaults)

    def start(self) -> None:
        seed, model, world, begin = self.options.seed, self.model, self.world, self.options.begin
        torch.manual_seed(seed)
        initialise(model)
        given = Pipeline.from_pretrained(begin, device=self.device).model if begin else None
        if given is not None and given.config == model.config:
            model.load_state_dict(given.state_dict())
            self.mixture = ONWARD
        else:
            rng = random.Random(seed)
            pictures = render(world, [world.sample(rng) for _ in range(4000)], rng).to(self.device)
            if given is None:
                fit_axes(model.tokenizer, pictures)
            else:
                take_shared(model, given)
            fit_codes(model.tokenizer, pictures)
            set_statistics(model, pictures[:600])
            world.furnish(model, seed)
        self.average.load_state_dict(model.state_dict())
        self.save()

    def train(self) -> None:
        options, began, before = self.options, time.perf_counter(), self.seconds
        with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as progress:
            bar = progress.add_task("training", total=options.steps, completed=self.step)
            while self.step < options.steps:
                self.one_step()
                self.seconds = before + time.perf_counter() - began
                progress.update(bar, completed=self.step)
                done = self.step == options.steps
                if self.step % options.every == 0 or done:
                    progress.console.print(self.report(done or self.step % options.sheet == 0))
                    self.save()

    def one_step(self) -> None:
        options = self.options
        rng = random.Random(f"{options.seed} {self.step}")
        torch.manual_seed(options.seed * 1_000_003 + self.step)
        rate = learning_rate(self.step, options.steps)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["base"] * rate
        count = scales_of_step(self.mixture, self.step / options.steps, rng)
        self.update(self.example(count, rng))
        self.step += 1

    def example(self, count: int, rng: random.Random) -> Example:
        return batch(self.world, self.model, count, self.options.tokens, rng)

    def update(self, example: Example) -> None:
        loss = self.loss(example)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        decay = min(0.998, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def loss(self, example: Example) -> Tensor:
        losses = scale_losses(self.model, example)
        weights = [min(self.model.config.grids[k], 12 if k >= 8 else 16) for k in range(len(losses))]
        for k, each in enumerate(losses):
            self.sums.setdefault(k, []).append(float(each.detach()))
        total: Tensor = torch.stack([w * each for w, each in zip(weights, losses, strict=True)]).sum()
        return total / sum(weights)

    def report(self, with_sheet: bool) -> str:
        """Append a line to the log: mean training loss since the last one and validation loss, per scale in nats."""
        row: dict[str, Any] = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
        row["train"] = [round(sum(v) / len(v), 3) for _, v in sorted(self.sums.items())]
        row["validation"] = [round(v, 3) for v in self.validation()]
        if with_sheet:
            row["sheet"] = self.sheet(self.options.run / f"sheet-{self.step:06d}.png")
        self.sums = {}
        line = json.dumps(row)
        with (self.options.run / "log.jsonl").open("a") as log:
            log.write(line + "\n")
        return line

    def validation(self) -> list[float]:
        return validation(self.world, self.average)

    def sheet(self, path: Path) -> dict[str, float]:
        return sheet(self.average, path)

    def save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "mixture": self.mixture,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        torch.save(state, self.options.run / "last.tmp")
        (self.options.run / "last.tmp").replace(self.options.run / "last.pt")

    def resume(self) -> None:
        state = torch.load(self.options.run / "last.pt", weights_only=True, map_location=self.device)
        self.step, self.seconds, self.mixture = state["step"], state["seconds"], state["mixture"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def initialise(model: Scenes) -> None:
    """Residual branches start at zero with gain 1; words and levels start distinct."""
    for block in model.layers:
        for name in ("attention.proj", "cross.proj", "feed_forward.down"):
            nn.init.zeros_(block.get_submodule(name).get_parameter("weight"))
    for table in model.modulation.tables:
        nn.init.ones_(table[:2])
    for linear in (model.modulation.shared, model.head.modulation, model.head.proj):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    nn.init.normal_(model.text.words.weight, std=0.5)
    nn.init.normal_(model.text.positions, std=0.1)
    nn.init.normal_(model.level.weight, std=0.1)


SHARED = ("blocks.", "modulation.", "window.", "place.", "level.", "text.layers.", "text.norm.", "text.summary.")
"""Parts that mean the same in two worlds if the tokenizers have the same axes; words and codes do not."""


def take_shared(model: Scenes, given: ScaleModel) -> None:
    """Begin with the parts of a model of another world, and with its tokenizer's axes."""
    shared = (*SHARED, "text.positions", "tokenizer.basis", "tokenizer.mean")
    model.load_state_dict({n: t for n, t in given.state_dict().items() if n.startswith(shared)}, strict=False)


def optimisers(model: Scenes, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and perceptrons, AdamW for embeddings, norms, biases and the head."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.startswith("reader.") or not parameter.requires_grad:
            continue
        inside = name.startswith(("blocks.", "text.layers.", "text.summary."))
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=options.adam, betas=(0.9, 0.97), weight_decay=0.0)]
    if matrices:
        made.insert(0, torch.optim.Muon(matrices, lr=options.muon, momentum=0.95, weight_decay=0.0))
    for optimiser in made:
        for group in optimiser.param_groups:
            group["base"] = group["lr"]
    return made


def learning_rate(step: int, steps: int) -> float:
    """Share of the base rate: warm-up over 40 steps, constant, linear decay over the last 35%."""
    return min(1.0, (step + 1) / 40, max(0.01, (1 - step / steps) / 0.35))


def scales_of_step(mixture: Mixture, share: float, rng: random.Random) -> int:
    chances = next(chances for until, chances in mixture if share < until)
    return rng.choices(list(chances), list(chances.values()))[0]


@torch.no_grad()
def validation(world: World, model: Scenes, spoil: Spoil | None = None) -> list[float]:
    """Cross-entropy per scale in nats on 32 pictures of held-out scenes, without captions if they are spoilt."""
    rng = random.Random("validation")
    scenes = [world.sample(rng, held_out=True) for _ in range(32)]
    pictures, count = render(world, scenes, rng).to(model.device), len(model.config.grids)
    codes, latents = tokenised(model, pictures, count, 0.0)
    words = torch.stack(model.encode_text([scene.caption for scene in scenes]).features).to(model.device)
    if spoil is not None:
        words = torch.tensor(model.vocabulary.null, device=model.device).expand_as(words)
    chosen = crop(model.config.grids, rng)
    codes = [each[:, chosen[k]] if k in chosen else each for k, each in enumerate(codes)]
    seen = None if spoil is None else spoil(pictures, 0)
    return [float(each) for each in scale_losses(model, Example(words, codes, latents, chosen, pictures, seen))]


if __name__ == "__main__":
    main()
