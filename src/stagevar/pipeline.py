"""The page to read first: load a model, turn prompts into pictures, all at once or scale by scale."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never, Self, Unpack

import torch
from tqdm import tqdm

from stagevar.accelerators.base import Accelerator
from stagevar.calling import CALL, LOAD, Drawing, Streaming, check_functions, check_settings, expand
from stagevar.calling import Doors as DoorSettings
from stagevar.doors import Doors
from stagevar.drawing import check_output, draw
from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.grids.computing import usual
from stagevar.engine.grids.grid import Schedule
from stagevar.engine.loop.call import Tap
from stagevar.engine.loop.graphs import Graphs
from stagevar.engine.plan.plan import Plan
from stagevar.errors import OptionError, PromptError, quoted
from stagevar.families.linear import pack
from stagevar.families.tokenizers.half import halve
from stagevar.loaded import loaded
from stagevar.loading.place import move, read_device, read_dtype, read_quantize
from stagevar.loading.where import Where
from stagevar.memory.limit import Fit, Held, fitted, held_by, read_amount
from stagevar.prepared import Prepared, prepare, require_picture
from stagevar.registry import parse
from stagevar.request import PerScale, Prompt, Request, WholePerScale, whole
from stagevar.result import OutputType, Result, ScaleEvent

if TYPE_CHECKING:
    from stagevar.parallel.group import Group

MAX_BATCH = 16
log = logging.getLogger(__name__)

StepEnd = Callable[["Pipeline", int, int, dict[str, Any]], object]
"""``(pipeline, index of the event, scale, {"latents": ..., "event": ...})``; what it returns is not used."""


class Pipeline(Doors):
    """A loaded model, ready to draw. No call changes a later one.

    Attributes:
        model: the network with its tokenizer and text encoder.
        accelerator: used by requests that name none.
        origin: source and revision that the model was loaded from.
        max_memory: bytes that drawing may need by prediction, or None.
        graphs: captured scales on CUDA, elsewhere None; with None every kernel is started by itself.
        group: the processes that hold the model together; None if this one holds all of it.
    """

    def __init__(
        self,
        model: ScaleModel,
        accelerator: str | Accelerator = "none",
        origin: Mapping[str, Any] | None = None,
        max_memory: int | str | None = None,
        group: Group | None = None,
    ) -> None:
        if not isinstance(model, ScaleModel):
            raise OptionError(f"a Pipeline takes a model, not {quoted(model)}; use Pipeline.from_pretrained for names")
        self.model = model
        self.accelerator = parse(accelerator)
        self.origin = dict(origin or {})
        self.max_memory = read_amount(max_memory)
        self._fits: dict[tuple[Schedule, Plan, int, int, Held], Fit] = {}
        self.graphs = Graphs() if model.device.type == "cuda" else None
        self.group = group

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "scenes",
        *,
        weights: str | Path | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        accelerator: str | Accelerator = "none",
        text_encoder: bool = True,
        encoder: bool = False,
        offload_text_encoder: bool = False,
        quantize: str | None = None,
        max_memory: int | str | None = None,
        tensor_parallel: int = 1,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **unknown: Never,
    ) -> Self:
        """Load a model.

        Args:
            source: a name that ``stagevar models`` lists; a folder that ``stagevar convert`` wrote, here or on the hub;
                a hub repository of the list, or a file of one; or a network's file.
            weights: folder that holds a listed model's published files, or its network's file, instead of the hub.
            device: ``auto`` takes CUDA if there is any.
            dtype: of the transformer blocks; ``auto`` means bfloat16 on CUDA and float32 elsewhere.
            accelerator: used by calls that name none.
            text_encoder: whether to load it; without it only encoded prompts can be drawn.
            encoder: whether to load the picture tokenizer's encoder too, where it can be left out (VAR, STAR, Switti,
                HART); drawing does not need it.
            offload_text_encoder: keep its weights on the CPU between prompts.
            quantize: ``int8`` rounds the weights of the blocks' linear layers to a byte each. It cannot be saved.
            max_memory: bytes, or text such as ``8GB``, that drawing may need by prediction (docs/performance.md).
            tensor_parallel: processes of torchrun that share the network's blocks (docs/devices.md).
            revision: of the network's repository, as in huggingface_hub.
            local_files_only, token: as in huggingface_hub, which heeds ``HF_HOME`` and ``HF_HUB_OFFLINE``.

        Raises:
            RequestError, MissingExtraError, CheckpointError and their kinds; OutputError (no space for a download).
        """
        check_settings(unknown, LOAD)
        chosen, place = parse(accelerator), read_device(device)
        where = Where(revision=revision, local_files_only=local_files_only, token=token)
        options: dict[str, Any] = {"weights": weights, "where": where, "quantize": read_quantize(quantize)}
        options |= {"dtype": read_dtype(dtype, place), "device": place, "encoder": encoder}
        options |= {"text_encoder": text_encoder, "offload_text_encoder": offload_text_encoder}
        limit = read_amount(max_memory)
        model, origin, group = loaded(source, limit, whole("tensor_parallel", tensor_parallel), **options)
        return cls(model, chosen, origin, limit, group)

    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt] = "",
        *,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        negative_prompt: Prompt | Sequence[Prompt] | None = None,
        height: int | None = None,
        width: int | None = None,
        aspect_ratio: float | str | None = None,
        strict: bool = False,
        guidance_scale: PerScale | Sequence[float] | None = None,
        temperature: PerScale | Sequence[float] | None = None,
        top_k: WholePerScale | Sequence[int] | None = None,
        top_p: PerScale | Sequence[float] | None = None,
        smooth: bool | None = None,
        plan: Plan | None = None,
        accelerator: str | Accelerator | None = None,
        batch_size: int = MAX_BATCH,
        output_type: OutputType = "pil",
        callback_on_step_end: StepEnd | None = None,
        cancelled: Callable[[], bool] | None = None,
        progress: bool = False,
        **doors: Unpack[DoorSettings],
    ) -> Result:
        """Draw every prompt ``num_images_per_prompt`` times.

        Args:
            prompt: one or several, as text or as ``encode`` gives it; a whole number is a class, for models of classes.
                Models that restore a picture need none.
            num_images_per_prompt: pictures per prompt.
            seed: see ``stagevar.calling.expand``; fresh ones if None, reported in the result.
            generator: of torch, or several, in place of a seed.
            negative_prompt: one for all, or one per prompt.
            height, width: pixels, or ``aspect_ratio`` (width over height): the nearest picture that the model draws,
                reported in the result; ``strict`` refuses others.
            guidance_scale, temperature, top_k, top_p, smooth: sampling, as in ``Request``; None means the model's own.
            plan: what runs at each scale, in place of these.
            accelerator: an instance, or text such as ``drop_last(1)``; None means the pipeline's.
            batch_size: pictures per pass.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            callback_on_step_end: called after every scale with the arguments that diffusers gives: pipeline, index,
                scale, ``{"latents": ..., "event": ...}``; what it returns is not used.
            cancelled: asked before every scale; True raises ``Cancelled``.
            progress: show a progress bar.
            doors: a picture to begin with (``image``, ``mask``, ``strength``, ``soft_edge``, ``expand``, ``upscale``,
                ``fit``: ``stagevar.editing.edit.Editing``), ``forced`` codes, or ``unconditional`` drawing.

        Raises:
            RequestError and its kinds, NumericError, Cancelled; MissingFileError (no such picture).
        """
        check_settings(doors, CALL)
        check_functions(callback_on_step_end=callback_on_step_end)
        settings: dict[str, Any] = {"height": height, "width": width, "aspect_ratio": aspect_ratio, "strict": strict}
        settings |= {"guidance_scale": guidance_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        settings |= {"smooth": smooth, "plan": plan, "accelerator": accelerator, "seed": seed, "generator": generator}
        settings |= {"num_images_per_prompt": num_images_per_prompt, "negative_prompt": negative_prompt}
        requests = expand(prompt, **settings, **doors)
        events = self.events(requests, batch_size=batch_size, output_type=output_type, cancelled=cancelled)
        with tqdm(total=None, unit="scale", disable=not progress) as bar:
            for index, event in enumerate(events):
                bar.total = event.scales * -(-len(requests) // len(event.images))
                bar.update()
                if callback_on_step_end is not None:
                    callback_on_step_end(self, index, event.scale, {"latents": event.latent, "event": event})
        assert event.result is not None
        return event.result

    def stream(self, prompt: Prompt | Sequence[Prompt] = "", **settings: Unpack[Streaming]) -> Iterator[ScaleEvent]:
        """Draw as ``__call__`` does, one event per scale and batch; ``event.preview`` decodes the picture as it stands.

        Args:
            prompt: as in ``__call__``.
            settings: as in ``__call__``, without callback and progress.

        Raises:
            as ``events``.
        """
        check_settings(settings, Streaming.__annotations__)
        drawing: dict[str, Any] = {name: value for name, value in settings.items() if name in Drawing.__annotations__}
        own: dict[str, Any] = {name: value for name, value in settings.items() if name not in drawing}
        return self.events(expand(prompt, **drawing), **own)

    @usual()
    def events(
        self,
        requests: Iterable[Request],
        *,
        batch_size: int = MAX_BATCH,
        output_type: OutputType = "pil",
        cancelled: Callable[[], bool] | None = None,
        wanted: Callable[[int], bool] | None = None,
        tap: Tap | None = None,
    ) -> Iterator[ScaleEvent]:
        """Draw requests that may differ in everything; those of one picture size share passes. All requests are checked
        before the first is drawn. There is an event per scale and batch; the last one holds the result.

        Args:
            requests: one per picture.
            batch_size: pictures per pass.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``.
            cancelled: asked before every scale; True raises ``Cancelled``.
            wanted: asked before every scale with the index of each picture; False ends it and frees its rows.
            tap: observer of the tensors of every pass.

        Raises:
            RequestError and its kinds: at once, or before the first event if the text encoder refuses a prompt.
            NumericError, Cancelled: while drawing.
        """
        given = list(requests) if isinstance(requests, Iterable) else [requests]
        if isinstance(requests, Request) or not all(isinstance(request, Request) for request in given):
            raise OptionError("events takes a list of requests; call the pipeline itself, or stream, with prompts")
        if not given:
            raise PromptError("there is no request; say what to draw")
        if whole("batch_size", batch_size) < 1:
            raise OptionError(f"batch_size must be 1 or more, not {batch_size}")
        check_output(output_type)
        check_functions(cancelled=cancelled, wanted=wanted, tap=tap)
        if self.group is not None:
            if wanted is not None:
                raise OptionError("pictures cannot leave a batch whose network several processes share")
            seeds = self.group.same([request.seed for request in given])
            given = [replace(request, seed=seed) for request, seed in zip(given, seeds, strict=True)]
            cancelled = self.group.asked(cancelled)
        for request in given:
            require_picture(self.model, request)
        prepared = [self.prepare(request) for request in given]
        if self.max_memory is not None:
            alike = {(each.schedule, each.plan): each for each in prepared}
            fits = {kind: self.fit(each, min(batch_size, len(prepared))) for kind, each in alike.items()}
            batch_size = min(fit.batch for fit in fits.values())
            prepared = [fits[each.schedule, each.plan].settled(self.model, each) for each in prepared]
        options: dict[str, Any] = {"batch_size": batch_size, "output_type": output_type, "origin": self.origin}
        pack(self.model)
        halve(self.model)
        return draw(self.model, prepared, **options, cancelled=cancelled, wanted=wanted, tap=tap, graphs=self.graphs)

    def prepare(self, request: Request) -> Prepared:
        """A request as the model draws it: size, schedule, accelerator and plan.

        Raises:
            SizeError: the request is strict about a size that the model does not draw.
            OptionError: an accelerator or a plan that cannot run on the model.
        """
        return prepare(self.model, request, self.accelerator)

    def fit(self, prepared: Prepared, batch_size: int) -> Fit:
        """How pictures like one are drawn within ``max_memory``; OptionError if not even one fits, or without limit."""
        if self.max_memory is None:
            raise OptionError("there is no limit of memory; give max_memory when the model is loaded")
        key = prepared.schedule, prepared.plan, batch_size, self.max_memory, held_by(self.model)
        if key not in self._fits:
            self._fits[key] = fitted(self.model, *key)
            log.info("max_memory: %s", self._fits[key])
        return self._fits[key]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: that of the transformer blocks."""
        return self.model.dtype

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> Self:
        """Move the model, or change the compute dtype; returns the pipeline itself.

        Raises:
            OptionError: no such device or dtype, other than int8's, or a model that several processes share.
        """
        if self.group is not None:
            raise OptionError("a pipeline with tensor_parallel stays where it is; load it with another device or dtype")
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        place = self.device if device is None else read_device(device)
        move(self.model, place, None if dtype is None else read_dtype(dtype, place))
        self.graphs = Graphs() if place.type == "cuda" else None
        return self

    def __repr__(self) -> str:
        where = f"{self.device}, {str(self.dtype).removeprefix('torch.')}"
        where += f" with {self.model.quantized} weights" if self.model.quantized else ""
        sizes = ", ".join(f"{w}x{h}" for h, w in self.model.sizes()[:3])
        more = f" and {len(self.model.sizes()) - 3} more" if len(self.model.sizes()) > 3 else ""
        return f"Pipeline({self.model.name}, {where}, pictures {sizes}{more}, accelerator {self.accelerator})"

    def _repr_html_(self) -> str:
        """The same, for notebooks."""
        return f"<p>{html.escape(repr(self))}</p>"
