"""Limits on configs, because a config of a few bytes can describe a network of any size."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from stagevar.errors import quoted

LARGEST_NUMBER, LONGEST_LIST = 2**20, 512
"""Largest number and longest list that a config may hold."""

MOST_MODULES, MOST_PARAMETERS = 50_000, 100 * 10**9
"""Most modules of a network, and its most parameters if no checkpoint at hand shows how large the network is."""


class TooManyParameters(ValueError):
    """A network is larger than it may be."""


def check_numbers(config: Any, name: str = "") -> None:
    """Raise ValueError if a number or a list in a config is outside the limits."""
    if is_dataclass(config):
        for field in fields(config):
            check_numbers(getattr(config, field.name), field.name)
    elif isinstance(config, tuple):
        if len(config) > LONGEST_LIST:
            raise ValueError(f"{name} has {len(config)} entries; at most {LONGEST_LIST} can be")
        for entry in config:
            check_numbers(entry, name)
    elif isinstance(config, int | float):
        least = -LARGEST_NUMBER if isinstance(config, float) else 0
        if not least <= config <= LARGEST_NUMBER:
            raise ValueError(f"{name} is {quoted(config)}; no network is of that size")


@contextmanager
def limited(parameters: int = MOST_PARAMETERS) -> Iterator[None]:
    """While this context is open, stop this thread from building a network as soon as the network is too large.

    Raises:
        ValueError: the network has more than ``MOST_MODULES`` modules or more than ``parameters`` parameters.
    """
    thread, modules, size = threading.get_ident(), 0, 0
    counted: dict[int, Tensor] = {}  # a tensor that two modules share counts once

    def count_module(*_: object) -> None:
        nonlocal modules
        if threading.get_ident() == thread:
            modules += 1
            if modules > MOST_MODULES:
                raise ValueError(f"the network would have more than {MOST_MODULES} modules")

    def count_parameter(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal size
        count_module()
        if tensor is not None and id(tensor) not in counted and threading.get_ident() == thread:
            counted[id(tensor)] = tensor
            size += tensor.numel()
            if size > parameters:
                raise TooManyParameters(f"the network would have more than {parameters} parameters")

    with ExitStack() as stack:
        for register, hook in (
            (register_module_module_registration_hook, count_module),
            (register_module_buffer_registration_hook, count_module),
            (register_module_parameter_registration_hook, count_parameter),
        ):
            stack.callback(register(hook).remove)
        yield
