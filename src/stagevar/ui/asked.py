"""What the fields of the page ask for: text from a browser to a checked request."""

from __future__ import annotations

import re
import secrets
from dataclasses import fields

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError, SizeError, quoted
from stagevar.registry import known, parse_foreign
from stagevar.request import Request

LONGEST_PROMPT = 4000
"""Characters; every model's own limit is below it."""


def read(model: ScaleModel, prompt: str, size: str, seed: str, accelerator: str, quality: float) -> Request:
    """The accelerated picture's request; an empty seed means a fresh one.

    Args:
        model: that draws it.
        prompt, size, seed, accelerator, quality: as the page shows them.

    Raises:
        PromptError, SizeError, OptionError
    """
    if len(prompt) > LONGEST_PROMPT:
        raise OptionError(f"the prompt has {len(prompt)} characters; the page takes at most {LONGEST_PROMPT}")
    height, width = read_size(model, size)
    return Request(
        prompt,
        seed=read_seed(seed),
        height=height,
        width=width,
        strict=True,
        accelerator=parse_foreign(with_quality(accelerator, quality)),
    )


def read_size(model: ScaleModel, text: str) -> tuple[int, int]:
    """Height and width of one of the sizes that the page offers.

    Raises:
        SizeError
    """
    offered = {shown(size): size for size in model.sizes()}
    if text not in offered:
        raise SizeError(f"model {model.name} draws no {quoted(text)} pictures; choose a size of the list")
    return offered[text]


def shown(size: tuple[int, int]) -> str:
    """Height and width as users read them: width first."""
    return f"{size[1]} x {size[0]}"


def read_seed(text: str) -> int:
    """The whole number of the seed's field, a fresh one if it is empty.

    Raises:
        OptionError
    """
    if not text.strip():
        return secrets.randbits(32)
    if not re.fullmatch(r"-?[0-9]{1,30}", text.strip()):
        raise OptionError(f"seed must be a whole number between 0 and 2**64 - 1, not {quoted(text)}")
    return int(text)


def has_dial(accelerator: str) -> bool:
    """Whether the text is the bare name of an accelerator with a quality dial."""
    cls = known().get(accelerator.strip())
    return cls is not None and any(f.name == "quality" for f in fields(cls))


def with_quality(accelerator: str, quality: float) -> str:
    """The accelerator's text with the dial's setting, where the dial belongs to it."""
    return f"{accelerator.strip()}(quality={quality})" if has_dial(accelerator) else accelerator
