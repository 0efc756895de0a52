"""The page to read first: load a model, turn prompts into pictures, all at once or scale by scale."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import stagevar
from stagevar.accelerators.base import Facts
from stagevar.drawing import MAX_BATCH, _revise, native_size, to_pil
from stagevar.engine.contract.block import Condition
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.grids.rows import Branch
from stagevar.engine.loop.call import Tap
from stagevar.engine.loop.run import run
from stagevar.engine.loop.trace import Trace
from stagevar.engine.plan.plan import Plan
from stagevar.errors import NumericError, OptionError
from stagevar.loading.place import read_device, read_dtype
from stagevar.loading.published import Where
from stagevar.loading.sources import load
from stagevar.registry import parse
from stagevar.request import EncodedPrompt, Prompt, Request, expand, whole
from stagevar.result import OUTPUT_TYPES, OutputType, Result, ScaleEvent


class Pipeline:
    """A loaded model, ready to draw. Safe to call again and again: no call changes a later one."""

    def __init__(self, model: ScaleModel) -> None:
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "scenes",
        *,
        weights: str | Path | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        text_encoder: bool = True,
        offload_text_encoder: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Pipeline:
        """Load a model.

        Args:
            source: a name that ``stagevar models`` lists; a folder that ``stagevar convert`` wrote, here or on the hub;
                a hub repository of the list, or a file of one; or a network's file.
            weights: folder that holds a listed model's published files, or its network's file, instead of the hub.
            device: ``auto`` takes CUDA if there is any.
            dtype: of the transformer blocks; ``auto`` means bfloat16 on CUDA and float32 elsewhere.
            text_encoder: whether to load it; without it only encoded prompts can be drawn.
            offload_text_encoder: keep its weights on the CPU between prompts.
            revision: of the network's repository, as in huggingface_hub.
            local_files_only, token: as in huggingface_hub, which heeds ``HF_HOME`` and ``HF_HUB_OFFLINE``.

        Raises:
            UnknownModelError, MissingFileError, ForeignCheckpointError, ShapeError, UnsafePickleError, OptionError,
            MissingExtraError.
        """
        where = Where(revision=revision, local_files_only=local_files_only, token=token)
        place = read_device(device)
        options: dict[str, Any] = {"dtype": read_dtype(dtype, place), "device": place}
        options |= {"text_encoder": text_encoder, "offload_text_encoder": offload_text_encoder}
        return cls(load(source, weights=weights, where=where, **options))

    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        negative_prompt: Prompt | Sequence[Prompt] | None = None,
        batch_size: int = MAX_BATCH,
        output_type: OutputType = "pil",
        callback_on_step_end: Callable[[ScaleEvent], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        **fields: Any,
    ) -> Result:
        """Draw every prompt ``num_images_per_prompt`` times.

        Args:
            prompt: one or several, as text or as ``encode`` gives it; a whole number is a class, for models of classes.
            num_images_per_prompt: pictures per prompt.
            seed: see ``stagevar.request.expand``; fresh ones if None, reported in the result.
            generator: of torch, or several, in place of a seed.
            negative_prompt: one for all, or one per prompt.
            batch_size: pictures per pass.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            callback_on_step_end: called with the event of every scale.
            cancelled: asked before every scale; True raises ``Cancelled``.
            fields: ``height`` and ``width`` or ``aspect_ratio``, ``strict``, ``guidance_scale``, ``temperature``,
                ``top_k``, ``top_p``, ``smooth``, ``plan`` or ``accelerator``, as in ``Request``.

        Raises:
            RequestError and its kinds, NumericError, Cancelled.
        """
        requests = expand(
            prompt,
            num_images_per_prompt=num_images_per_prompt,
            seed=seed,
            generator=generator,
            negative_prompt=negative_prompt,
            **fields,
        )
        result = None
        for event in self.events(requests, batch_size=batch_size, output_type=output_type, cancelled=cancelled):
            if callback_on_step_end is not None:
                callback_on_step_end(event)
            result = event.result
        assert result is not None
        return result

    def stream(self, prompt: Prompt | Sequence[Prompt], **options: Any) -> Iterator[ScaleEvent]:
        """As ``__call__``, but one event per scale; ``event.preview`` decodes the picture as it stands."""
        own = {name: options.pop(name) for name in ("batch_size", "output_type", "cancelled") if name in options}
        return self.events(expand(prompt, **options), **own)

    def events(
        self,
        requests: Sequence[Request],
        *,
        batch_size: int = MAX_BATCH,
        output_type: OutputType = "pil",
        cancelled: Callable[[], bool] | None = None,
        tap: Tap | None = None,
    ) -> Iterator[ScaleEvent]:
        """Draw requests that may differ in everything; those of one picture size share passes. ``tap`` observes the
        tensors of every pass."""
        if not all(isinstance(request, Request) for request in requests):
            raise OptionError("events takes requests; call the pipeline itself, or stream, with prompts")
        if whole("batch_size", batch_size) < 1:
            raise OptionError(f"batch_size must be 1 or more, not {batch_size}")
        if output_type not in OUTPUT_TYPES:
            raise OptionError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, not {output_type!r}")
        batches = self._batches(requests, batch_size)
        return self._events(requests, batches, output_type, cancelled, tap)

    def schedule(self, request: Request) -> Schedule:
        """The scales of the picture size that the model draws for a request.

        Raises:
            SizeError: the request is strict about a size that the model does not draw.
        """
        if request.height is None and request.aspect_ratio is None:
            return self.model.schedule()
        return self.model.schedule(*native_size(self.model, request))

    def encode(self, prompt: str) -> EncodedPrompt:
        """Read a prompt once, to give it in place of its text as often as wanted.

        Raises:
            PromptError, MissingFileError
        """
        return self._encoded([prompt])[0]

    def _encoded(self, prompts: Sequence[str]) -> list[EncodedPrompt]:
        with torch.inference_mode():
            text = self.model.encode_text(prompts)
        return [EncodedPrompt(prompt, self.model.family, text.one(i)) for i, prompt in enumerate(prompts)]

    def plan(self, schedule: Schedule | None = None, request: Request | None = None) -> Plan:
        """The plan that a request starts with: the model's defaults where it leaves a field open, accelerated."""
        schedule = schedule or self.model.schedule()
        request = request or Request("default")
        if request.plan is not None:
            if not isinstance(request.plan, Plan):
                raise OptionError(f"plan must be a stagevar.Plan, not {type(request.plan).__name__}")
            return self._accelerated(request.plan, schedule, request)
        defaults = self.model.defaults
        guidance = defaults.guidance if request.guidance_scale is None else request.guidance_scale
        branch: tuple[Branch, ...] | Branch = "both"
        if not isinstance(guidance, tuple):
            guidance, branch = self.model.guidance_schedule(guidance, schedule), self.model.branches(schedule)
        smooth = defaults.smooth if request.smooth is None else request.smooth
        plan = Plan.uniform(
            len(schedule),
            branch=branch,
            guidance=guidance,
            temperature=defaults.temperature if request.temperature is None else request.temperature,
            top_k=defaults.top_k if request.top_k is None else request.top_k,
            top_p=defaults.top_p if request.top_p is None else request.top_p,
            smooth=self.model.smooth_schedule(schedule) if smooth else None,
        )
        if self.model.mixes_unlikely:
            mixed = [k for k, scale in enumerate(plan) if scale.smooth is not None and scale.top_k != 1]
            plan = plan.replace(mixed, top_k=0, top_p=1.0)
        return self._accelerated(plan, schedule, request)

    def _accelerated(self, plan: Plan, schedule: Schedule, request: Request) -> Plan:
        model = self.model
        facts = Facts(depth=model.depth, groups=model.groups, causal=model.causal)
        return parse(request.accelerator).plan(plan, schedule, facts)

    def _batches(
        self, requests: Sequence[Request], batch_size: int
    ) -> list[tuple[Schedule, tuple[int, ...], list[Plan]]]:
        """Batches of requests of one size: schedule, indices within the call, plans."""
        by_schedule: dict[Schedule, list[int]] = {}
        for index, request in enumerate(requests):
            by_schedule.setdefault(self.schedule(request), []).append(index)
        batches = []
        for schedule, indices in by_schedule.items():
            for start in range(0, len(indices), batch_size):
                chosen = tuple(indices[start : start + batch_size])
                batches.append((schedule, chosen, [self.plan(schedule, requests[i]) for i in chosen]))
        return batches

    def _events(
        self,
        requests: Sequence[Request],
        batches: Sequence[tuple[Schedule, tuple[int, ...], list[Plan]]],
        output_type: OutputType,
        cancelled: Callable[[], bool] | None,
        tap: Tap | None,
    ) -> Iterator[ScaleEvent]:
        images: dict[int, Any] = {}
        trace = self._trace(requests)
        for schedule, indices, plans in batches:
            began = time.perf_counter()
            with torch.inference_mode():
                condition = self.condition([requests[i] for i in indices])
            trace.text_milliseconds += (time.perf_counter() - began) * 1e3
            seeds = [requests[i].seed for i in indices]
            revise = _revise([parse(requests[i].accelerator) for i in indices])
            options: dict[str, Any] = {"revise": revise, "cancelled": cancelled, "tap": tap}
            for step in run(self.model, condition, schedule, plans, seeds, **options):
                for record in step.records:
                    trace.records.append(replace(record, images=tuple(indices[i] for i in record.images)))
                if step.scale == len(schedule) - 1:
                    began = time.perf_counter()
                    images.update(zip(indices, self._outputs(step.latent, output_type), strict=True))
                    trace.decode_milliseconds += (time.perf_counter() - began) * 1e3
                complete = len(images) == len(requests)
                yield ScaleEvent(
                    scale=step.scale,
                    scales=len(schedule),
                    grid=schedule[step.scale],
                    images=indices,
                    milliseconds=sum(record.milliseconds for record in step.records),
                    latent=step.latent,
                    plans=step.plans,
                    result=self._result(requests, images, trace) if complete else None,
                    decode=self._previews,
                )

    def condition(self, requests: Sequence[Request]) -> Condition:
        """Encode the prompts and negative prompts of one batch: 2n rows, the prompts' first."""
        text = self._read([request.encoded or request.prompt for request in requests])
        given = {i: r.negative_encoded or r.negative_prompt for i, r in enumerate(requests) if r.negative_prompt}
        if not given:
            return self.model.condition(text)
        negative = self._read([each for each in given.values() if each])
        return self.model.condition(text, negative.spread(list(given), len(requests)))

    def _read(self, prompts: Sequence[str | EncodedPrompt]) -> Text:
        """The states of prompts, some of which may have been encoded before."""
        fresh = [prompt for prompt in prompts if isinstance(prompt, str)]
        read = iter(self._encoded(fresh) if fresh else [])
        encoded = [next(read) if isinstance(prompt, str) else prompt for prompt in prompts]
        for each in encoded:
            if each.family != self.model.family:
                raise OptionError(f"prompt {each.prompt!r} was encoded for {each.family}, not for {self.model.family}")
        return Text.joined([each.states for each in encoded])

    def _outputs(self, latent: Tensor, output_type: OutputType) -> list[Any]:
        if output_type == "latent":
            return list(latent)
        with torch.inference_mode():
            pictures = self.model.decode(latent).float().cpu()
        if not bool(torch.isfinite(pictures).all()):
            raise NumericError("NaN or infinity in the decoded pictures; check the weights of the tokenizer")
        if output_type == "pt":
            return list(pictures)
        if output_type == "np":
            return [picture.permute(1, 2, 0).numpy() for picture in pictures]
        return [to_pil(picture) for picture in pictures]

    def _previews(self, latent: Tensor) -> list[Image.Image]:
        return self._outputs(latent, "pil")

    def _result(self, requests: Sequence[Request], images: dict[int, Any], trace: Trace) -> Result:
        return Result(
            images=[images[i] for i in range(len(requests))],
            prompts=tuple(request.prompt for request in requests),
            seeds=trace.seeds,
            sizes=tuple(self.model.picture_size(self.schedule(request)) for request in requests),
            trace=trace,
        )

    def _trace(self, requests: Sequence[Request]) -> Trace:
        return Trace(
            model=self.model.name,
            device=str(self.model.device),
            dtype=str(self.model.dtype).removeprefix("torch."),
            seeds=tuple(request.seed for request in requests),
            versions={"stagevar": stagevar.__version__, "torch": str(torch.__version__)},
        )
