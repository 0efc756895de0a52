"""Device and dtype: names that users give, and the placement of a model."""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError, quoted
from stagevar.families.family import TextReader
from stagevar.families.linear import unpack
from stagevar.parallel.ranks import Ranks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZED = ("int8",)
ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
CPU = torch.device("cpu")
CPU_FLAGS = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model is put into memory.

    Attributes:
        dtype: of the transformer's blocks and the text encoder; all else is float32.
        device: where network, tokenizer and text encoder are put.
        text_encoder: whether the text encoder is loaded; without it only encoded prompts can be drawn.
        offload_text_encoder: whether its weights wait on the CPU between prompts.
        quantize: ``int8`` rounds the weights of the blocks' linear layers, see ``families.int8``; "" rounds nothing.
        encoder: whether the picture tokenizer has its encoder, where it can be left out.
        as_stored: whether the blocks keep the dtype of their file, mapped to memory, for a caller who casts them.
    """

    dtype: torch.dtype = torch.float32
    device: str | torch.device = CPU
    text_encoder: bool = True
    offload_text_encoder: bool = False
    quantize: str = ""
    encoder: bool = False
    as_stored: bool = False


def read_device(device: str | torch.device) -> torch.device:
    """The device that a user names; ``auto`` is CUDA if there is any. Of the processes that torchrun started, each has
    a CUDA device of its own.

    Raises:
        OptionError: it cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    ranks = Ranks.here()
    if ranks.world > 1 and str(device) == "cuda":
        device = f"cuda:{ranks.local}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that torch has given up
        try:
            place = torch.device(device)
            torch.zeros(1, device=place).item()
        except Exception as error:  # each back end of torch that is not there raises something else
            why = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
            raise OptionError(f"device {quoted(str(device))} cannot be used ({why[:120]}); try auto or cpu") from None
    return place


def read_dtype(dtype: str | torch.dtype, device: torch.device = CPU) -> torch.dtype:
    """The dtype that a user names; ``auto`` is bfloat16 on CUDA and float32 elsewhere.

    Raises:
        OptionError: there is no such dtype.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    name = str(dtype).removeprefix("torch.")
    chosen = DTYPES.get(ALIASES.get(name, name))
    if chosen is None:
        raise OptionError(f"dtype must be auto, {', '.join((*DTYPES, *ALIASES))}, not {quoted(name)}")
    return chosen


def read_quantize(quantize: str | None) -> str:
    """What a user rounds weights to; "" for None.

    Raises:
        OptionError: there is no such rounding.
    """
    if quantize is not None and quantize not in QUANTIZED:
        raise OptionError(f"quantize must be {' or '.join(QUANTIZED)}, or left out, not {quoted(quantize)}")
    return quantize or ""


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether a CPU has matrix instructions for bfloat16 (AMX or AVX512-BF16); False where it does not say."""
    if device.type != "cpu":
        return False
    with suppress(OSError):
        return re.search(r"\b(amx|avx512)_bf16\b", CPU_FLAGS.read_text(encoding="utf-8")) is not None
    return False


def in_blocks(name: str) -> bool:
    """Whether a parameter has the compute dtype; all others are float32."""
    return ".blocks." in f".{name}"


def move(model: ScaleModel, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Put a model with its text encoders on a device; change the compute dtype unless ``dtype`` is None.

    Raises:
        OptionError: the dtype of rounded weights would change.
    """
    if model.quantized and dtype not in (None, model.dtype):
        raise OptionError(f"{model.quantized} weights were rounded for {model.dtype}; load the model anew for {dtype}")
    unpack(model)
    encoders = cast(TextReader, model.text_encoder).encoders if hasattr(model.text_encoder, "encoders") else ()
    if dtype is not None:
        for name, parameter in model.named_parameters():
            if in_blocks(name):
                parameter.data = parameter.data.to(dtype)
        for encoder in encoders:
            encoder.model.to(dtype)
    model.to(device)
    for encoder in encoders:
        encoder.to(device)
