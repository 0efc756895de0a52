"""What a pipeline does besides drawing: prompts to states, pictures to codes and back, and how likely a picture is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stagevar.calling import expand
from stagevar.drawing import check_output, condition, encode, outputs
from stagevar.editing.edit import Edit, Fit
from stagevar.editing.fit import fitted
from stagevar.editing.given import Codes, check_encoder, check_given, check_maps, read_codes, stacked
from stagevar.editing.opened import Picture
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import computing, usual
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.loop.known import Known
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError
from stagevar.request import EncodedPrompt, Prompt, Request
from stagevar.result import OutputType
from stagevar.sizes import native_size

PROMPTS = 8
"""Prompts at once that a picture is scored for."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a model finds a picture for a prompt.

    Attributes:
        nats: natural logarithm of the probability of all codes.
        scales: the same of each scale; ``nats`` is their sum.
    """

    nats: float
    scales: tuple[float, ...]


class Doors:
    """The base of ``Pipeline`` that reads prompts and pictures."""

    model: ScaleModel

    def encode(self, prompt: str) -> EncodedPrompt:
        """Read a prompt once, to give it in place of its text as often as wanted.

        Raises:
            PromptError, MissingFileError
        """
        return encode(self.model, [Request(prompt).prompt])[0]

    @usual()
    def tokenize(
        self, image: Picture, *, height: int | None = None, width: int | None = None, fit: Fit = "crop"
    ) -> Codes:
        """A picture as codes: per scale int64 (h, w), or (h, w, d) of models of bits.

        Args:
            image: a path, bytes of a file, an image, an array or a tensor.
            height, width: pixels of the picture that is read: the nearest size that the model draws; by default the
                one whose ratio is the picture's.
            fit: ``crop``, ``pad`` or ``stretch``, where ratios differ.

        Raises:
            OptionError, SizeError, MissingFileError: as ``Edit.read``; a model without the encoder of its tokenizer.
        """
        schedule, picture = self._read(image, height, width, fit)
        return read_codes(self.model, picture, schedule)

    @usual()
    def detokenize(self, codes: Sequence[Tensor | None], output_type: OutputType = "pil") -> Any:
        """The picture of codes as ``tokenize`` gives them; None or -1 adds nothing. HART's residual is not part of it.

        Args:
            codes: one map per scale; the last one says the size.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.

        Raises:
            OptionError: no codes; codes of no picture size of the model, or that it does not have; an unknown type.
        """
        check_output(output_type)
        model, codes = self.model, check_maps(codes)
        schedule = self._schedule(codes)
        check_given(model, codes, schedule)
        with computing():
            latent = model.empty_latent(1, schedule)
            for k, found in stacked(model, [codes], schedule).items():
                added = Known.of(found, model.device).alone
                latent = model.add_codes(latent, added.values, schedule, k, None, added.gain)
        return outputs(model, latent, output_type)[0]

    @usual()
    def log_likelihood(
        self,
        image: Picture,
        prompt: Prompt | Sequence[Prompt],
        *,
        height: int | None = None,
        width: int | None = None,
        fit: Fit = "crop",
    ) -> list[Likelihood]:
        """How likely a picture is for each prompt: the model predicts every scale from the picture's own codes of the
        scales before (teacher forcing), without guidance and at temperature 1. STAR's second stage and HART's residual
        are not part of it.

        Args:
            image: as in ``tokenize``.
            prompt: one or several; the likelihoods of several can be compared.
            height, width, fit: as in ``tokenize``.

        Raises:
            as ``tokenize``; PromptError; OptionError: a model that restores.
        """
        if self.model.restores:
            raise OptionError(f"model {self.model.name} sees the picture that it draws, so it has no likelihood of it")
        schedule, picture = self._read(image, height, width, fit)
        requests = expand(prompt, seed=0)
        codes = read_codes(self.model, picture, schedule)
        parts = (requests[first : first + PROMPTS] for first in range(0, len(requests), PROMPTS))
        return [each for part in parts for each in self._likelihoods(part, codes, schedule)]

    def _likelihoods(self, requests: Sequence[Request], codes: Codes, schedule: Schedule) -> list[Likelihood]:
        model, n, nats = self.model, len(requests), list[Tensor]()
        forced = stacked(model, [codes] * n, schedule)

        def tap(name: str, k: int, tensor: Tensor) -> None:
            if name == "logits":
                scored, taken = tensor.float().log_softmax(-1), forced[k].to(tensor.device)[..., None]
                nats.append(scored.gather(-1, taken).double().flatten(1).sum(1))

        with computing():
            given = condition(model, requests)
        plans = [Plan.uniform(len(schedule), branch="cond")] * n
        for _ in run(model, given, schedule, plans, [0] * n, forced=forced, tap=tap):
            pass
        return [Likelihood(sum(scales), tuple(scales)) for scales in torch.stack(nats, 1).tolist()]

    def _read(self, image: Picture, height: int | None, width: int | None, fit: Fit) -> tuple[Schedule, Tensor]:
        """A picture as one of a size of the model, and its schedule."""
        check_encoder(self.model)
        edit = Edit.read(image, fit=fit)
        size = native_size(self.model, Request("any", height=height, width=width, edit=edit))
        return self.model.schedule(*size), fitted(edit, size).picture

    def _schedule(self, codes: Sequence[Tensor | None]) -> Schedule:
        """The schedule whose grids are those of the codes."""
        grids = [None if code is None else tuple(code.shape[:2]) for code in codes]
        for size in self.model.sizes():
            schedule = self.model.schedule(*size)
            if len(grids) == len(schedule) and all(a in (None, b) for a, b in zip(grids, schedule, strict=True)):
                return schedule
        shown = ", ".join("None" if grid is None else f"{grid[0]}x{grid[1]}" for grid in grids)
        raise OptionError(f"model {self.model.name} draws no picture of the grids {shown}")
