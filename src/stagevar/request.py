"""What a user asks for: one picture, and the validation of every setting."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from stagevar.errors import OptionError, PromptError, quoted

if TYPE_CHECKING:
    from torch import Tensor

    from stagevar.accelerators.base import Accelerator
    from stagevar.editing.edit import Edit
    from stagevar.engine.contract.text import Text
    from stagevar.engine.plan.plan import Plan


MAX_SEED = 2**64 - 1

LONGEST_WHOLE = 128
"""Bits of any whole number; longer ones have no use here, and take long to be written out."""

MIN_TEMPERATURE = 0.001
"""Smaller divisors overflow the logits."""

PerScale = float | tuple[float, ...]
WholePerScale = int | tuple[int, ...]
Prompt: TypeAlias = "str | int | EncodedPrompt"


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt that ``Pipeline.encode`` has read. It can be given wherever a prompt can, and is not read again.

    Attributes:
        prompt: the text.
        family: family of the models that can draw it.
        states: what the text encoder made of this prompt alone.
    """

    prompt: str
    family: str
    states: Text = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One picture to draw. ``None`` means the model's own default.

    Attributes:
        prompt: the text; it may be empty with a picture that a model restores.
        seed: 0 to 2**64 - 1; the same seed gives the same noise in every plan and batch.
        negative_prompt: replaces the model's null text in the second branch.
        height, width: pixels.
        aspect_ratio: width over height, as a number or as ``"3:2"``, in place of height and width.
        strict: refuse a size or ratio that the model does not draw, instead of drawing the nearest.
        guidance_scale: strength, or one weight per scale; -100 to 100.
        temperature: divisor of the logits, or one per scale: 0.001 to 100, or 0 to take the most likely code.
        top_k: most likely codes that may be drawn, or one number per scale; 0 means all.
        top_p: share of probability mass that may be drawn, in (0, 1], or one per scale.
        smooth: whether codes are mixed instead of drawn, more so at early scales (VAR, Switti and HART).
        unconditional: draw without a prompt, by the model's null text alone; the prompt is empty then.
        plan: the complete plan instead of the six fields above.
        accelerator: an instance, or text such as ``drop_last(1)``; None leaves it to the pipeline.
        edit: a picture to begin with, and what is kept of it.
        forced: per scale the codes to take instead of drawn ones, int64 (h, w), or (h, w, d) of models of bits, as in
            ``Result.codes``; a code of -1 is drawn, and None draws the whole scale.
        encoded, negative_encoded: the states of prompt and negative prompt, if they have been read before.

    Raises:
        PromptError: empty prompt.
        OptionError: a value out of its range, or fields that contradict a plan.
    """

    prompt: str
    seed: int = 0
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    aspect_ratio: float | str | None = None
    strict: bool = False
    guidance_scale: PerScale | None = None
    temperature: PerScale | None = None
    top_k: WholePerScale | None = None
    top_p: PerScale | None = None
    smooth: bool | None = None
    unconditional: bool = False
    plan: Plan | None = None
    accelerator: str | Accelerator | None = None
    edit: Edit | None = field(default=None, repr=False)
    forced: tuple[Tensor | None, ...] | None = field(default=None, repr=False, compare=False)
    encoded: EncodedPrompt | None = field(default=None, repr=False)
    negative_encoded: EncodedPrompt | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        if not isinstance(self.unconditional, bool):
            raise OptionError(f"unconditional must be true or false, not {quoted(self.unconditional)}")
        if self.unconditional and (self.prompt or self.negative_prompt):
            raise PromptError("an unconditional picture has no prompt; leave it out")
        if not self.prompt.strip() and not self.unconditional and self.edit is None:
            raise PromptError("the prompt is empty; say what to draw")
        if self.negative_prompt is not None:
            _check_text("negative prompt", self.negative_prompt)
        self._set("seed", whole("seed", self.seed))
        if not 0 <= self.seed <= MAX_SEED:
            raise OptionError(f"seed must lie between 0 and 2**64 - 1, not {self.seed}")
        for name in ("height", "width"):
            if (side := getattr(self, name)) is not None:
                self._set(name, whole(name, side))
                if side < 1:
                    raise OptionError(f"{name} must be a positive number of pixels, not {side}")
        if (self.height is None) != (self.width is None):
            raise OptionError("give both height and width, or neither")
        self._set("aspect_ratio", _ratio(self.aspect_ratio))
        if self.aspect_ratio is not None and self.height is not None:
            raise OptionError("give height and width or aspect_ratio, not both")
        if not isinstance(self.strict, bool):
            raise OptionError(f"strict must be true or false, not {quoted(self.strict)}")
        self._set("guidance_scale", _per_scale("guidance_scale", self.guidance_scale, low=-100, high=100))
        self._set("temperature", _per_scale("temperature", self.temperature, low=0, high=100))
        temperatures = self.temperature if isinstance(self.temperature, tuple) else (self.temperature or 0,)
        if any(0 < each < MIN_TEMPERATURE for each in temperatures):
            raise OptionError(f"temperature must be {MIN_TEMPERATURE} or more, or 0 for the most likely code")
        self._set("top_k", _whole_per_scale("top_k", self.top_k))
        self._set("top_p", _per_scale("top_p", self.top_p, low=0, high=1))
        shares = self.top_p if isinstance(self.top_p, tuple) else (1.0 if self.top_p is None else self.top_p,)
        if not all(shares):
            raise OptionError("top_p must lie in (0, 1], not 0")
        if not isinstance(self.smooth, bool | None):
            raise OptionError(f"smooth must be true or false, not {quoted(self.smooth)}")
        sampling = (self.guidance_scale, self.temperature, self.top_k, self.top_p, self.smooth)
        if self.plan is not None and (self.unconditional or any(value is not None for value in sampling)):
            raise OptionError("a plan already holds branches, guidance, temperature, top_k, top_p and smooth; give one")
        if self.forced is not None:
            if not isinstance(self.forced, list | tuple):
                raise OptionError(f"forced is a list with the codes of each scale, not {quoted(self.forced)}")
            self._set("forced", tuple(self.forced))
            if self.edit is not None:
                raise OptionError("give an image or forced codes, not both")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise PromptError(f"the {name} must be text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"the {name} is not valid UTF-8 text; check the encoding of the terminal") from None


def whole(name: str, value: Any) -> int:
    """The value as an int; integers of numpy and torch will do.

    Raises:
        OptionError: it is no whole number, or a very long one.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name} must be a whole number, not {quoted(value)}") from None
    if number.bit_length() > LONGEST_WHOLE:
        raise OptionError(f"{name} must be a whole number of at most {LONGEST_WHOLE} bits, not {quoted(number)}")
    return number


def _number(name: str, value: Any) -> float:
    if not isinstance(value, str):
        with suppress(
            TypeError, ValueError, OverflowError, RuntimeError
        ):  # arrays and tensors of several numbers among them
            return float(value)
    raise OptionError(f"{name} must be a number, not {quoted(value)}")


def _ratio(value: float | str | None) -> float | None:
    """Width over height, from a number, its text, or two numbers with a colon or a slash between them."""
    if value is None:
        return None
    sides = re.split("[:/]", value) if isinstance(value, str) else [value]
    with suppress(TypeError, ValueError, ZeroDivisionError, OverflowError, OptionError):
        numbers = [float(side) if isinstance(side, str) else _number("aspect_ratio", side) for side in sides]
        ratio = numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0]
        if len(numbers) <= 2 and 0.01 <= ratio <= 100:
            return ratio
    raise OptionError(f"aspect_ratio must be width over height, such as 1.5, '3:2' or '3/2', not {quoted(value)}")


def _several(value: Any) -> bool:
    """Whether a value is a list, tuple, array or tensor of numbers."""
    return not isinstance(value, str) and getattr(value, "ndim", int(isinstance(value, Sequence))) == 1


def _per_scale(name: str, value: Any, *, low: float, high: float) -> PerScale | None:
    """A number, or one per scale."""
    if value is None:
        return None
    values = tuple(_number(name, each) for each in (value if _several(value) else [value]))
    for each in values:
        if not low <= each <= high:
            raise OptionError(f"{name} must lie between {low} and {high}, not {each}")
    return values if _several(value) else values[0]


def _whole_per_scale(name: str, value: Any) -> WholePerScale | None:
    """A whole number of 0 or more, or one per scale."""
    if value is None:
        return None
    values = tuple(whole(name, each) for each in (value if _several(value) else [value]))
    for each in values:
        if each < 0:
            raise OptionError(f"{name} must be 0 (all codes) or more, not {each}")
    return values if _several(value) else values[0]
