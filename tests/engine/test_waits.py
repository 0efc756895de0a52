"""The host waits for the device once in a pass, and nothing is sent to the device by a copy that waits.

No device is needed: a stand-in sees every operation on the CPU and knows which tensors were born on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stagevar.engine.contract import sampling
from stagevar.engine.grids.grid import Scale
from stagevar.engine.grids.sent import sent
from stagevar.engine.loop.run import run
from stagevar.engine.plan.plan import Plan
from stagevar.engine.plan.signals import Signals
from stagevar.engine.plan.watch import Activity, AttentionEntropy, CodeEntropy, Thumbnail
from stagevar.families.tiny import tiny
from stagevar.prepared import Prepared, prepare, revised
from stagevar.request import Request

from .test_matrix import VARIANTS

aten = torch.ops.aten
READS = (aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2)
READS += (aten.unique_dim, aten.unique_consecutive, aten.equal, aten._linalg_check_errors, aten.linalg_solve)
NEW = (aten.lift_fresh,)
"""What makes a tensor of numbers that the host has (``torch.tensor``, ``new_tensor``)."""
ACCELERATORS = (
    "none",
    "stagevar(quality=0.0)",
    "stagevar_released(skip=0, single=2)",
    "guidance_off(3)",
    "drop_last(1)",
    "reuse_last(1)",
)


class Device(TorchDispatchMode):
    """Takes the CPU for a device and counts what makes the host wait for it.

    Attributes:
        reads: names of the operations by which the host read the device.
        copies: names of the operations that would copy a tensor of the host and wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        host = [hasattr(each, "on_host") for each in given]
        to = func.overloadpacket in (aten.to, aten._to_copy)
        if to and kwargs.get("non_blocking") and all(host):
            return args[0].clone()
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        masks = packet in (aten.index, aten.index_put) and any(each.dtype == torch.bool for each in given[1:])
        read = to and not any(host) and torch.device(kwargs.get("device") or "meta").type == "cpu"
        if (packet in READS or masks or read) and not all(host):
            self.reads.append(str(packet))
        if any(host) and not all(host) and packet != aten.fill_:  # it takes one number along with the call
            self.copies.append(str(packet))
        if packet in NEW or (given and all(host)):
            for each in tree_leaves(out):
                if isinstance(each, Tensor):
                    each.on_host = True  # type: ignore[attr-defined]
        return out


def watched(action: Callable[[], object]) -> Device:
    with torch.inference_mode(), Device() as device:
        action()
    return device


def test_the_stand_in_sees_what_makes_the_host_wait() -> None:
    x = torch.arange(6.0).view(2, 3)
    for read in (lambda: x.sum().item(), lambda: bool(x.any()), lambda: x[x > 2], lambda: x.nonzero(), lambda: x.cpu()):
        assert len(watched(read).reads) == 1, read
    for copy in (lambda: x * torch.tensor([1.0, 2, 3]), lambda: x * x.new_tensor([1.0, 2, 3]), lambda: x[[1, 0]]):
        assert watched(copy).copies, copy
    for free in (lambda: x * sent(torch.tensor([1.0, 2, 3]), x.device), lambda: x[1] * 2, lambda: x.argmax(-1)):
        assert not watched(free).reads + watched(free).copies, free
    assert not watched(lambda: torch.tensor([1.0, 2]).tolist()).reads


def drawn(model: Any, prepared: list[Prepared], device: Device) -> int:
    """Draw the pictures under watch; the number of passes."""
    given = model.condition(model.encode_text([each.request.prompt for each in prepared]))
    online = any(each.accelerator.online for each in prepared)
    revise = (lambda image, plan, at, seen: revised(prepared[image].accelerator, plan, at, seen)) if online else None
    plans, seeds = [each.plan for each in prepared], [each.request.seed for each in prepared]
    steps, passes = run(model, given, prepared[0].schedule, plans, seeds, revise=revise), 0
    with device:
        for step in steps:
            passes += sum(record.run != "skip" for record in step.records)
    return passes


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_host_waits_once_in_a_pass(variant: str, accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_largest", lambda logits, count: logits.topk(count, dim=-1).values.flip(-1))
    family, changes = VARIANTS[variant]
    model, device = tiny(family, **changes), Device()
    prompts = ("3", "volcano", "7") if family == "var" else ("a red circle", "two yellow rings", "a star")
    requests = [Request(prompt, seed=i, accelerator=accelerator) for i, prompt in enumerate(prompts)]
    requests[1] = Request(prompts[1], seed=1, accelerator=accelerator, guidance_scale=2.0, top_k=3)
    passes = drawn(model, [prepare(model, request) for request in requests], device)
    assert passes and device.copies == []
    assert len(device.reads) == passes, device.reads


@pytest.mark.parametrize("family", ["infinity", "scenes", "hart", "switti"])
def test_what_is_watched_is_read_with_the_rest(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_largest", lambda logits, count: logits.topk(count, dim=-1).values.flip(-1))
    model, device, told = tiny(family), Device(), list[int]()
    plan = prepare(model, Request("a red circle")).plan
    watch = (AttentionEntropy(0.5), Activity(), CodeEntropy(), Thumbnail(16))
    plan = plan.replace(range(1, len(plan)), watch=watch)

    def revise(image: int, plan: Plan, at: Scale, signals: Signals) -> Plan:
        told.append(len(signals.watched))
        return plan

    condition = model.condition(model.encode_text(["a red circle"]))
    steps = run(model, condition, model.schedule(), [plan], [1], revise=revise)
    with device:
        passes = len(list(steps))
    assert device.copies == [] and len(device.reads) == passes, device.reads
    assert told == [0] + [4] * (passes - 1)
