"""What the fields of the page ask for: text from a browser to a checked request."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stagevar.accelerators.base import Accelerator
from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import OptionError, PromptError, SizeError, UnknownModelError, quoted
from stagevar.pipeline import Pipeline
from stagevar.registry import known, parse_foreign
from stagevar.request import Request

LONGEST_PROMPT = 4000
"""Characters; every model's own limit is below it."""


def read(model: ScaleModel, prompt: Any, size: Any, seed: Any, accelerator: Any, quality: Any) -> Request:
    """The accelerated picture's request; an empty seed means a fresh one.

    Args:
        model: that draws it.
        prompt, size, seed, accelerator, quality: as the page shows them, or whatever a browser sends in their place.

    Raises:
        PromptError, SizeError, OptionError
    """
    height, width = read_size(model, size)
    return Request(
        read_prompt(prompt),
        seed=read_seed(seed),
        height=height,
        width=width,
        strict=True,
        accelerator=parse_foreign(with_quality(accelerator, quality)),
    )


def read_model(models: Mapping[str, Pipeline], name: Any) -> Pipeline:
    """One of the models that the page offers.

    Raises:
        UnknownModelError
    """
    if not isinstance(name, str) or name not in models:
        raise UnknownModelError(f"the page has no model {quoted(name)}; it has {', '.join(models)}")
    return models[name]


def read_prompt(prompt: Any) -> str:
    """The text of a prompt's field, which a request checks further.

    Raises:
        PromptError, OptionError
    """
    if not isinstance(prompt, str):
        raise PromptError(f"the prompt must be text, not {type(prompt).__name__}")
    if len(prompt) > LONGEST_PROMPT:
        raise OptionError(f"the prompt has {len(prompt)} characters; the page takes at most {LONGEST_PROMPT}")
    return prompt


def read_size(model: ScaleModel, text: Any) -> tuple[int, int]:
    """Height and width of one of the sizes that the page offers.

    Raises:
        SizeError
    """
    offered = {shown(size): size for size in model.sizes()}
    if not isinstance(text, str) or text not in offered:
        raise SizeError(f"model {model.name} draws no {quoted(text)} pictures; choose a size of the list")
    return offered[text]


def shown(size: tuple[int, int]) -> str:
    """Height and width as users read them: width first."""
    return f"{size[1]} x {size[0]}"


def read_seed(text: Any) -> int:
    """The whole number of the seed's field, a fresh one if it is empty.

    Raises:
        OptionError
    """
    if isinstance(text, str) and not text.strip():
        return secrets.randbits(32)
    if not isinstance(text, str) or not re.fullmatch(r"-?[0-9]{1,30}", text.strip()):
        raise OptionError(f"seed must be a whole number between 0 and 2**64 - 1, not {quoted(text)}")
    return int(text)


def named(accelerator: Any) -> type[Accelerator] | None:
    """The accelerator whose bare name the text is."""
    return known().get(accelerator.strip()) if isinstance(accelerator, str) else None


def has_dial(accelerator: Any) -> bool:
    """Whether the text is the bare name of an accelerator with a quality dial."""
    cls = named(accelerator)
    return cls is not None and any(f.name == "quality" for f in fields(cls))


def with_quality(accelerator: Any, quality: Any) -> Any:
    """The accelerator's text with the dial's setting, where the dial belongs to it."""
    return f"{accelerator.strip()}(quality={quality})" if has_dial(accelerator) else accelerator
