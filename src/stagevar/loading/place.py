"""Device and dtype: names that users give, and the placement of a model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from stagevar.errors import OptionError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is put into memory.

    Attributes:
        dtype: of the transformer's blocks and the text encoder; all else is float32.
        device: of all of it.
        text_encoder: whether it is loaded; without it only encoded prompts can be drawn.
        offload_text_encoder: whether its weights wait on the CPU between prompts.
    """

    dtype: torch.dtype = torch.float32
    device: str | torch.device = CPU
    text_encoder: bool = True
    offload_text_encoder: bool = False


def read_device(device: str | torch.device) -> torch.device:
    """The device that a user names; ``auto`` is CUDA if there is any.

    Raises:
        OptionError: it cannot be used.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that torch has given up
        try:
            place = torch.device(device)
            torch.zeros(1, device=place).item()
        except Exception as error:  # each back end of torch that is not there raises something else
            why = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
            raise OptionError(f"device {str(device)!r} cannot be used ({why[:120]}); try auto or cpu") from None
    return place


def read_dtype(dtype: str | torch.dtype, device: torch.device = CPU) -> torch.dtype:
    """The dtype that a user names; ``auto`` is bfloat16 on CUDA and float32 elsewhere.

    Raises:
        OptionError: there is no such dtype.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = DTYPES.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise OptionError(f"dtype must be auto, {', '.join(DTYPES)}, not {dtype!r}")
    return chosen
