"""Memory of a run before anything is loaded: the engine itself runs on tensors without data, and a ledger sums up the
sizes of those that are alive.

What is counted is what PyTorch allocates, to the byte, and the buffers of the noise. Not counted is what libraries take
inside one operation (the scratch space of a convolution, a rounding up of the allocator), nor Python and PyTorch
themselves, which take some hundreds of megabytes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stagevar.engine.contract.model import ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.engine.grids.grid import Grid, Schedule
from stagevar.engine.loop.cohort import stored_in
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.families.int8 import linears
from stagevar.families.int8 import quantize as round_weights
from stagevar.families.tokenizers import winograd
from stagevar.loading.place import in_blocks

TEXT_LENGTH = 32
"""Tokens of an ordinary prompt."""


@dataclass(frozen=True, slots=True)
class ScaleBytes:
    """One scale of a batch.

    Attributes:
        scale: index of the scale.
        grid: its height and width in tokens.
        cache: bytes of cached keys and values after this scale, over all layers. The last scale caches nothing; its
            entry is the cache that it started with.
        peak: most bytes that are alive at once while it runs, without the weights. Of scales that share a pass the
            first has the network's.
    """

    scale: int
    grid: Grid
    cache: int
    peak: int


@dataclass(frozen=True, slots=True)
class RunBytes:
    """A batch from prompt states to pictures, in bytes.

    Attributes:
        weights: weights of network and picture tokenizer.
        condition: peak while the prompts' states become the condition.
        scales: the scales of the loop.
        decoder: peak while the latents become pictures.
    """

    weights: int
    condition: int
    scales: tuple[ScaleBytes, ...]
    decoder: int

    @property
    def peak(self) -> int:
        """The largest peak of all phases, without the weights."""
        return max(self.condition, self.decoder, *(scale.peak for scale in self.scales))


def run_bytes(
    model: ScaleModel,
    schedule: Schedule,
    plan: Plan,
    batch: int,
    *,
    dtype: torch.dtype = torch.float32,
    text_length: int = TEXT_LENGTH,
    quantize: str = "",
) -> RunBytes:
    """Memory of drawing ``batch`` pictures at once, which grows linearly with them.

    Args:
        model: its shapes; weights are neither needed nor touched.
        schedule, plan: what is drawn, and how.
        batch: pictures.
        dtype: of the blocks; all else is float32.
        text_length: tokens of each prompt.
        quantize: ``int8`` if the weights of the blocks' linear layers are.

    Returns:
        Figures in bytes. More than three pictures are extrapolated from two and three.
    """
    weights = weight_bytes(model, dtype, quantize)
    text = text_length, quantize
    if batch <= 3:
        return replace(_measured(model, schedule, plan, batch, dtype, *text), weights=weights)
    two, three = (_measured(model, schedule, plan, n, dtype, *text) for n in (2, 3))

    def line(first: int, second: int) -> int:
        return first + (batch - 2) * (second - first)

    scales = zip(two.scales, three.scales, strict=True)
    return RunBytes(
        weights,
        line(two.condition, three.condition),
        tuple(ScaleBytes(a.scale, a.grid, line(a.cache, b.cache), line(a.peak, b.peak)) for a, b in scales),
        line(two.decoder, three.decoder),
    )


def weight_bytes(model: ScaleModel, dtype: torch.dtype, quantize: str = "") -> int:
    """Bytes of the weights of network and picture tokenizer: blocks in ``dtype``, all else as it is. Rounded weights
    take a byte each, and a scale per output channel, of whatever the model at hand holds in their place."""
    total, layers = 0, linears(model, in_blocks)
    rounded = {f"{name}.weight" for name in layers} if quantize else set()
    held = {f"{name}.{own}" for name, layer in layers.items() for own, _ in layer.named_buffers()}
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name in held:
            continue
        if name in rounded:
            total += tensor.numel() + tensor.shape[0] * dtype.itemsize
            continue
        kind = dtype if in_blocks(name) and tensor.is_floating_point() else tensor.dtype
        total += tensor.numel() * kind.itemsize
    return total


def _measured(
    model: ScaleModel,
    schedule: Schedule,
    plan: Plan,
    batch: int,
    dtype: torch.dtype,
    text_length: int,
    quantize: str = "",
) -> RunBytes:
    ledger, scales, keys, entry = Ledger(), [], [dict[str, int]() for _ in schedule], dict[str, int]()

    def look(name: str, k: int, tensor: Tensor) -> None:
        kind, _, layer = name.partition(".")
        if kind == "attended":
            stored = stored_in(plan) or tensor.dtype
            keys[k][layer] = 2 * tensor.numel() * stored.itemsize
            entry[layer] = keys[k][layer] // tensor.shape[2]
        elif kind == "kept":
            keys[k][layer] = entry[layer] * tensor.shape[2]

    with FakeTensorMode(allow_non_fake_inputs=True), _shadow(model, dtype, text_length, quantize) as ghost:
        text = ghost.encode_text([""] * batch)
        with ledger, torch.inference_mode():
            condition = ghost.condition(text)
            if ghost.restores:
                condition = ghost.seeing(condition, torch.empty(batch, 3, *ghost.picture_size(schedule)))
            conditioned = ledger.lap()
            steps = run(ghost, condition, schedule, [plan] * batch, list(range(batch)), noise=_noise, tap=look)
            latent, cache, held = None, 0, dict[str, int]()
            for step in steps:
                k = step.scale
                if model.causal and plan[k].run == "full" and plan[k].cache != "none" and k != plan.executed[-1]:
                    cache = sum((held := held | keys[k]).values())
                scales.append(ScaleBytes(k, schedule[k], cache, ledger.lap()))
                latent = step.latent
            del step, steps, condition
            assert latent is not None
            ledger.lap()
            pictures = ghost.decode(latent).float()
            torch.isfinite(pictures).all()
    return RunBytes(0, conditioned, tuple(scales), ledger.lap())


@contextmanager
def _shadow(model: ScaleModel, dtype: torch.dtype, text_length: int, quantize: str) -> Iterator[ScaleModel]:
    """The model built anew from tensors without data, with blank texts for prompts."""
    ghost = type(model)(model.config, model.name, model.defaults)
    for name, parameter in ghost.named_parameters():
        if in_blocks(name):
            parameter.data = parameter.data.to(dtype)
    if quantize:
        round_weights(ghost, in_blocks, dtype)
    ghost.requires_grad_(False).eval()
    blank = ghost.blank_text(text_length)

    def encode(prompts: Sequence[str]) -> Text:
        n = len(prompts)
        pooled = None if blank.pooled is None else blank.pooled.expand(n, -1)
        masks = None if blank.masks is None else blank.masks * n
        return Text(blank.features * n, pooled, masks)

    ghost.encode_text = encode  # type: ignore[method-assign]
    yield ghost


def _scratch(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]) -> int:
    """What a convolution on the CPU takes besides its output: a large map goes by tiles, a single small picture is
    unfolded into a matrix, for all others the weights are laid out anew."""
    if x.device.type != "cpu":
        return 0
    if winograd.pays(x, weight) and max(stride) == 1:
        return winograd.scratch(weight)
    if len(x) > 1 or x.numel() > 20480 or max(stride) > 1:
        return weight.nbytes
    unfolded = out[0, 0].numel() * weight[0].numel() * x.element_size()
    return unfolded if max(weight.shape[2:]) > 1 else 0


def _noise(seed: int, scale: int, shape: Sequence[int]) -> Tensor:
    """Allocates what ``loop.sample.uniforms`` allocates."""
    raw = torch.empty(tuple(shape), dtype=torch.int64)
    return (raw >> 41).to(torch.float32) * 2.0**-23


WHOLE = (
    torch.ops.prim.device.default,
    torch.ops.aten.upsample_bilinear2d.vec,
    torch.ops.aten.upsample_bicubic2d.vec,
)
"""What is composed of other operations by name, but runs as one kernel."""


class Ledger(TorchDispatchMode):
    """Bytes of the tensors that operations make, while they are alive.

    Fake tensors hold no data, so data-dependent operations on them get the answer of a valid run: a boolean is True,
    and ``unique`` finds no duplicates.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._known: set[int] = set()

    def lap(self) -> int:
        """The most that was alive at once since the last call."""
        most, self.most = self.most, self.live
        return most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fake = bool(args) and isinstance(args[0], FakeTensor)
        if fake and func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            return True
        if fake and func is torch.ops.aten._unique2.default:
            order = torch.arange(args[0].numel(), device=args[0].device)
            return order, order, order
        if func not in WHOLE:
            with self:  # what is composed of other operations allocates in those
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        self._note((args, kwargs), made=False)
        out = func(*args, **(kwargs or {}))
        self._note(out, made=True)
        if func is torch.ops.aten.convolution.default:
            self.most = max(self.most, self.live + _scratch(out, *args[:4]))
        return out

    def _note(self, values: Any, *, made: bool) -> None:
        """Count the storages of tensors that an operation made; those that it was given are weights or the like."""
        for tensor in tree_leaves(values):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                size = storage.nbytes() if made else 0
                self._known.add(storage._cdata)
                self.live += size
                self.most = max(self.most, self.live)
                weakref.finalize(storage, self._release, storage._cdata, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
