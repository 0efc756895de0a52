"""One network over several devices: each has some heads of every attention and some units of every perceptron.

The blocks of all families give the same names to the same linear layers. Those that make heads or units are split by
rows of their weight (``ColwiseParallel``), those that read them by columns (``RowwiseParallel``), whose products are
added up over the devices: twice per block, three times with cross-attention (Shoeybi et al., arXiv 1909.08053). All
outside the blocks is whole on every device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from stagevar.engine.contract.block import Block
from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError

STACKED = {"qkv": 3, "q": 1, "kv": 2, "up": 1, "gate": 1}
"""Layers whose outputs are split, and how many times all heads (or units) stand in them one behind the other."""
ADDED = ("proj", "down")
"""Layers that read what is split; their products are added up."""
GATHERED = ("modulation",)
"""Layers whose outputs are split and then gathered: they run once per picture."""
VECTORS = ("q_bias", "v_bias", "log_temperature")
"""Parameters of an attention with an entry per channel of a head, or per head."""


def check_split(model: ScaleModel, devices: int) -> None:
    """Raise unless the heads and units of all blocks can be shared evenly. The model may be on the meta device.

    Raises:
        OptionError: names the numbers that are possible.
    """
    counts = {"attention heads": set[int](), "units of its perceptrons": set[int]()}
    for block in _blocks(model):
        for name, layer in _layers(block):
            what = name.rpartition(".")[2]
            if what not in (*STACKED, *ADDED, *GATHERED):
                raise OptionError(f"model {model.name} has a layer {name} that tensor_parallel does not know")
            if what == "down":
                counts["units of its perceptrons"].add(layer.in_features)
        heads = (getattr(part, "heads", None) for part in block.modules())
        counts["attention heads"] |= {count for count in heads if isinstance(count, int)}
    for what, found in counts.items():
        for count in found:
            if count % devices:
                both = math.gcd(*(each for several in counts.values() for each in several))
                able = [str(n) for n in range(2, both + 1) if both % n == 0]
                instead = f"take tensor_parallel {', '.join(able)}" if able else "it runs on one device only"
                raise OptionError(f"the {count} {what} of model {model.name} do not divide by {devices}; {instead}")


def split(model: ScaleModel, mesh: DeviceMesh, device: torch.device, dtype: torch.dtype) -> None:
    """Keep this process's share of the blocks, on ``device`` in ``dtype``, and all else whole on ``device``.

    One block at a time leaves the memory that it was loaded to, so a network whose file is memory-mapped is never whole
    in the memory of a process.

    Args:
        model: with its weights, on the CPU.
        mesh: the processes that share it, one-dimensional.
        device: this process's device.
        dtype: of the blocks' parameters.
    """
    for block in _blocks(model):
        block.to(device, dtype)
        for name, layer in list(_layers(block)):
            what = name.rpartition(".")[2]
            if STACKED.get(what, 1) > 1:
                _by_device(layer, STACKED[what], mesh.size())
            _parallelize(block, name, layer, what, mesh)
        for part in block.modules():
            _shorten(part, mesh)
    setattr(model, "over_heads", partial(_mean, mesh))  # noqa: B010
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _blocks(model: ScaleModel) -> list[Block]:
    """All blocks, those of a second stage included."""
    return [module for module in model.modules() if isinstance(module, Block)]


def _layers(block: Block) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear))


def _by_device(layer: nn.Linear, stacked: int, devices: int) -> None:
    """Reorder the outputs (stacked, devices, ...) of a layer to (devices, stacked, ...), so that each device's share is
    one piece."""
    for parameter in layer.parameters():
        parameter.data = parameter.data.unflatten(0, (stacked, devices, -1)).transpose(0, 1).flatten(0, 2)


def _parallelize(block: Block, name: str, layer: nn.Linear, what: str, mesh: DeviceMesh) -> None:
    """Put one layer under its style, with what the style leaves out: a bias given in the call, and the end of the
    transfer."""
    style: ParallelStyle = ColwiseParallel()
    if what in ADDED:
        style = RowwiseParallel(use_local_output=False)
    elif what in GATHERED:
        style = ColwiseParallel(output_layouts=Replicate(), use_local_output=False)
    layer.register_forward_pre_hook(partial(_own_bias, mesh), with_kwargs=True)
    parallelize_module(block, mesh, {name: style}, src_data_rank=None)
    if what not in STACKED:
        layer.register_forward_hook(_whole)


def _own_bias(mesh: DeviceMesh, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A call's bias, which is this device's share already, as the split layer takes it."""
    if len(given) > 1:
        named = named | {"bias": given[1]}
    bias = named.get("bias")
    if isinstance(bias, Tensor):
        named = named | {"bias": DTensor.from_local(bias, mesh, [Shard(0)], run_check=False)}
    return given[:1], named


def _whole(layer: nn.Module, given: tuple[Any, ...], output: DTensor) -> Tensor:
    """The output on every device, once it has arrived."""
    return output.full_tensor()


def _shorten(part: nn.Module, mesh: DeviceMesh) -> None:
    """Make a part count its own heads, and keep the entries of its vectors that belong to them."""
    rank, devices = mesh.get_local_rank(), mesh.size()
    if isinstance(heads := getattr(part, "heads", None), int):
        setattr(part, "heads", heads // devices)  # noqa: B010
    for name in VECTORS:
        if isinstance(vector := getattr(part, name, None), nn.Parameter):
            own = vector.detach().chunk(devices)[rank].clone()
            part.register_parameter(name, nn.Parameter(own, requires_grad=False))
    if hasattr(part, "across_heads"):
        setattr(part, "across_heads", partial(norm_over_devices, mesh))  # noqa: B010


def norm_over_devices(mesh: DeviceMesh, x: Tensor, eps: float) -> Tensor:
    """Layer norm without affine parameters over the last axis of all devices' shares together, in float32."""
    x = x.float()
    channels = x.shape[-1] * mesh.size()
    centred = x - _sum(mesh, x.sum(-1, keepdim=True)) / channels
    variance = _sum(mesh, centred.square().sum(-1, keepdim=True)) / channels
    return centred * (variance + eps).rsqrt()


def _mean(mesh: DeviceMesh, share: Tensor) -> Tensor:
    return _sum(mesh, share) / mesh.size()


def _sum(mesh: DeviceMesh, share: Tensor) -> Tensor:
    return DTensor.from_local(share, mesh, [Partial()], run_check=False).full_tensor()
