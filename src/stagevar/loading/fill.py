"""Fill a network from tensors: once, checked by name and shape, without a second copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from stagevar.errors import ForeignCheckpointError, OptionError, ShapeError, StagevarError, some
from stagevar.families.int8 import linears
from stagevar.families.int8 import quantize as round_weights
from stagevar.families.pages import page_out
from stagevar.loading.place import in_blocks


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    rename: Callable[[str], str | None] | None = None,
    reshape: Callable[[str, Tensor], Tensor] | None = None,
    source: str | Path = "",
    dtype: torch.dtype | None = None,
    keys: Mapping[str, str] | None = None,
    quantize: str = "",
    as_stored: bool = False,
) -> None:
    """Give a network, which may be on the meta device, the tensors of a checkpoint; then freeze it.

    Args:
        module: the network.
        state: tensors by the checkpoint's names.
        rename: the checkpoint's name to ours, or None to leave the tensor out.
        reshape: our name and the tensor to the tensor in our layout.
        source, keys: the file, and its own names of the tensors in ``state`` where they differ; errors quote them.
        dtype: of the parameters of ``blocks``, at any depth; all others, and all buffers of real numbers, are float32.
        quantize: ``int8`` rounds the weights of linear layers in ``blocks``, straight from the checkpoint's dtype.
        as_stored: leave the parameters of ``blocks`` in the dtype of the checkpoint, for a caller who casts them.

    Raises:
        ForeignCheckpointError: tensors missing or left over, or NaN or infinity in one.
        ShapeError: a tensor of another shape, or integers where real numbers belong.
        OptionError: a number that the dtype cannot hold.
    """
    expected = module.state_dict()
    found: dict[str, Tensor] = {}
    own: dict[str, str] = {}
    left_over: list[str] = []
    for theirs, tensor in state.items():
        ours = theirs if rename is None else rename(theirs)
        key = theirs if keys is None else keys[theirs]
        if ours is None:
            continue
        if ours not in expected or ours in found:
            left_over.append(key)
            continue
        found[ours], own[ours] = _reshaped(reshape, ours, tensor), key
    misfits = [f"{own[name]} {why}" for name, tensor in found.items() if (why := _misfit(tensor, expected[name]))]
    missing = [name for name in expected if name not in found]
    refuse(f"{source or 'the checkpoint'} does not fit {type(module).__name__}", expected, missing, left_over, misfits)
    compute = {name for name, _ in module.named_parameters(remove_duplicate=False) if in_blocks(name)}
    rounded = {f"{name}.weight" for name in linears(module, in_blocks)} if quantize else set()
    for name, tensor in found.items():
        floating = expected[name].is_floating_point()
        inside = tensor.dtype if as_stored or name in rounded else dtype or torch.float32
        target = inside if name in compute else torch.float32
        found[name] = tensor.to(target if floating else expected[name].dtype)
        if floating and not _finite(found[name]):
            raise _infinite(f"{own[name]} of {source or 'the checkpoint'}", tensor, target)
        if found[name] is not tensor:
            page_out(tensor)
    module.load_state_dict(found, assign=True)
    if quantize:
        del found
        round_weights(module, in_blocks, dtype or torch.float32, page_out)
    if empty := [name for name, t in chain(module.named_parameters(), module.named_buffers()) if t.is_meta]:
        raise ValueError(f"{some(empty)}: not part of any checkpoint, so it must be built outside the meta device")
    module.requires_grad_(False).eval()


def _reshaped(reshape: Callable[[str, Tensor], Tensor] | None, name: str, tensor: Tensor) -> Tensor:
    if reshape is None or not _filled(tensor):
        return tensor
    try:
        return reshape(name, tensor)
    except (RuntimeError, IndexError):  # it does not fit; the check of shapes says so with both shapes
        return tensor


def _filled(tensor: Tensor) -> bool:
    """Whether a tensor has storage for all its numbers: a small file may hold one number in any shape."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.itemsize


def _finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite; a sum tells it, unless it is itself too large."""
    tensor = tensor.float() if tensor.itemsize == 1 else tensor
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def _infinite(what: str, tensor: Tensor, target: torch.dtype) -> StagevarError:
    """The error of a tensor that is not finite as it is loaded."""
    if _finite(tensor):
        kind = str(target).removeprefix("torch.")
        return OptionError(f"{what} has numbers that {kind} cannot hold; load it in bfloat16 or float32")
    return ForeignCheckpointError(f"{what} holds NaN or infinity, so nothing can be drawn with it; get the file anew")


def _misfit(tensor: Tensor, expected: Tensor) -> str:
    """Why a tensor cannot be taken, "" if it can."""
    if expected.is_floating_point() and not tensor.is_floating_point():
        return f"holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers"
    if tensor.shape != expected.shape:
        return f"is {tuple(tensor.shape)}, expected {tuple(expected.shape)}"
    return "" if _filled(tensor) else f"holds fewer numbers than its shape {tuple(tensor.shape)}"


def refuse(
    what: str, expected: Collection[str], missing: Sequence[str], left_over: Sequence[str], misfits: Sequence[str]
) -> None:
    """Raise if tensors are missing, left over or do not fit.

    Args:
        what: the beginning of the message.
        expected: names of all tensors.
        missing, left_over, misfits: what is wrong.

    Raises:
        ForeignCheckpointError, ShapeError
    """
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(expected)} tensors missing ({some(missing)})")
    if left_over:
        problems.append(f"{len(left_over)} left over ({some(left_over)})")
    if misfits:
        problems.append(f"{len(misfits)} of another shape or kind ({some(misfits)})")
    if problems:
        kind = ForeignCheckpointError if missing or left_over else ShapeError
        raise kind(f"{what}: {', '.join(problems)}; check model and size")
