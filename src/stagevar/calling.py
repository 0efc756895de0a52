"""A call becomes requests: prompts, pictures per prompt, seeds; and answers to the names that other libraries use."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from stagevar.editing.edit import Editing, read_edits
from stagevar.errors import OptionError, PromptError, quoted
from stagevar.request import EncodedPrompt, PerScale, Prompt, Request, WholePerScale, whole

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from stagevar.accelerators.base import Accelerator
    from stagevar.engine.plan.plan import Plan
    from stagevar.result import OutputType

MAX_IMAGES = 1024
"""Images of one call; more is a batch job."""


class Doors(Editing, total=False):
    """Settings of a call that begin with a picture, or go behind the prompt.

    Keys:
        unconditional, forced: as in ``Request``.
    """

    unconditional: bool
    forced: Sequence[Tensor | None] | None


class Drawing(Doors, total=False):
    """Settings that say what is drawn, as ``Pipeline.__call__`` and ``Request`` take them."""

    num_images_per_prompt: int
    seed: int | Sequence[int] | None
    generator: Generator | Sequence[Generator] | None
    negative_prompt: Prompt | Sequence[Prompt] | None
    height: int | None
    width: int | None
    aspect_ratio: float | str | None
    strict: bool
    guidance_scale: PerScale | Sequence[float] | None
    temperature: PerScale | Sequence[float] | None
    top_k: WholePerScale | Sequence[int] | None
    top_p: PerScale | Sequence[float] | None
    smooth: bool | None
    plan: Plan | None
    accelerator: str | Accelerator | None


class Streaming(Drawing, total=False):
    """Settings of ``Pipeline.stream``."""

    batch_size: int
    output_type: OutputType
    cancelled: Callable[[], bool] | None


CALL = (*Streaming.__annotations__, "callback_on_step_end", "progress")
"""Settings of a call of the pipeline."""

LOAD = (
    "weights",
    "device",
    "dtype",
    "accelerator",
    "text_encoder",
    "encoder",
    "offload_text_encoder",
    "quantize",
    "max_memory",
    "tensor_parallel",
    "revision",
    "local_files_only",
    "token",
)
"""Settings of ``Pipeline.from_pretrained``."""

ELSEWHERE = {
    "cfg": "guidance_scale",
    "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "true_cfg_scale": "guidance_scale",
    "num_images": "num_images_per_prompt",
    "n": "num_images_per_prompt",
    "size": "height and width",
    "resolution": "height and width",
    "tau": "temperature",
    "callback": "callback_on_step_end",
    "mask_image": "mask",
    "init_image": "image",
    "num_inference_steps": "accelerator, as every scale is one step and an accelerator decides which of them run",
    "torch_dtype": "dtype",
    "device_map": "device",
    "load_in_8bit": "quantize",
    "quantization_config": "quantize",
    "variant": "revision",
    "use_auth_token": "token",
    "cache_dir": "HF_HOME in the environment",
}
"""Names that other libraries use, and what to use here."""


def check_settings(given: Iterable[str], known: Collection[str]) -> None:
    """Raise if one of the settings given is none of the known ones.

    Raises:
        OptionError: names the right one, and all that there are.
    """
    for name in given:
        if name in known:
            continue
        near = get_close_matches(name, [*CALL, *LOAD], 1)
        instead = ELSEWHERE.get(name) or (near[0] if near else "")
        for place, here, other in (("Pipeline.from_pretrained", LOAD, CALL), ("the call of a pipeline", CALL, known)):
            if instead in here and instead not in other:
                instead = f"{instead} of {place}"
        hint = f"; use {instead}" if instead else ""
        raise OptionError(f"there is no option {quoted(name)}{hint}; options are {', '.join(known)}")


def check_functions(**given: object) -> None:
    """Raise if what is to be called is no function; None is not called.

    Raises:
        OptionError
    """
    for name, each in given.items():
        if each is not None and not callable(each):
            raise OptionError(f"{name} must be a function, not {quoted(each)}")


def expand(
    prompt: Prompt | Sequence[Prompt],
    *,
    num_images_per_prompt: int = 1,
    seed: int | Sequence[int] | None = None,
    generator: Generator | Sequence[Generator] | None = None,
    negative_prompt: Prompt | Sequence[Prompt] | None = None,
    **settings: Any,
) -> list[Request]:
    """The requests of a call: every prompt ``num_images_per_prompt`` times. A whole number as prompt is the number of a
    class, for models that take classes.

    Args:
        prompt: one or several; none ("") with several pictures is none for each.
        num_images_per_prompt: pictures per prompt.
        seed: a whole number gives every prompt the same noise, and counts up over the pictures of a prompt; several
            give one per picture, or one per prompt, counted up over its pictures; None draws fresh ones.
        generator: of torch, in place of a seed: one gives all seeds from its present state, several give one each.
        negative_prompt: one for all, or one per prompt.
        settings: other fields of ``Request``, and those of ``Editing`` in place of ``edit``.

    Raises:
        PromptError: what is no prompt.
        OptionError: numbers of images, seeds or negative prompts that do not fit, or an unknown setting.
        as ``Edit.read``.
    """
    prompt, negative_prompt = _class_text(prompt), _class_text(negative_prompt)
    prompt = [prompt] if isinstance(prompt, EncodedPrompt) else prompt
    if not isinstance(prompt, Iterable) or isinstance(prompt, Mapping | Set) or getattr(prompt, "ndim", 1) == 0:
        raise PromptError(f"a prompt must be text, or several in a list, not {type(prompt).__name__}")
    prompts: list[Any] = [prompt] if isinstance(prompt, str | bytes) else [_class_text(each) for each in prompt]
    if not prompts:
        raise PromptError("there is no prompt; say what to draw")
    check_settings(settings, Drawing.__annotations__)
    if prompts == [""] and isinstance(pictures := settings.get("image"), list | tuple):
        prompts *= len(pictures)
    num_images_per_prompt = whole("num_images_per_prompt", num_images_per_prompt)
    if num_images_per_prompt < 1:
        raise OptionError(f"the number of images must be 1 or more, not {num_images_per_prompt}")
    count = len(prompts) * num_images_per_prompt
    if count > MAX_IMAGES:
        raise OptionError(f"{count} images in one call; ask for at most {MAX_IMAGES}")
    if isinstance(negative_prompt, Sequence) and not isinstance(negative_prompt, str | bytes):
        negatives: list[Any] = [_class_text(each) for each in negative_prompt]
        if len(negatives) != len(prompts):
            raise OptionError(f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one, or one each")
    else:
        negatives = [negative_prompt] * len(prompts)
    if generator is not None:
        if seed is not None:
            raise OptionError("give a seed or a generator, not both")
        seed = _drawn(generator, len(prompts), num_images_per_prompt)
    seeds = _seeds(seed, len(prompts), num_images_per_prompt)
    edits = read_edits({name: settings.pop(name, None) for name in Editing.__annotations__}, len(prompts))
    return [
        Request(
            **_named("prompt", "encoded", prompts[i // num_images_per_prompt]),
            **_named("negative_prompt", "negative_encoded", negatives[i // num_images_per_prompt]),
            seed=seeds[i],
            edit=edits[i // num_images_per_prompt],
            **settings,
        )
        for i in range(count)
    ]


def _named(name: str, encoded: str, prompt: Any) -> dict[str, Any]:
    """The fields of a request for a prompt, encoded or not."""
    return {name: prompt.prompt, encoded: prompt} if isinstance(prompt, EncodedPrompt) else {name: prompt}


def _class_text(prompt: Any) -> Any:
    """The number of a class as text; anything else as it is."""
    several = getattr(prompt, "ndim", 0) > 0
    if isinstance(prompt, bool) or several:
        return prompt
    try:
        return str(operator.index(prompt))
    except TypeError:
        return prompt


def _drawn(generator: Any, prompts: int, each: int) -> list[int]:
    """A seed per image of one generator, or one per generator."""
    import torch

    generators = [generator] * (prompts * each) if isinstance(generator, torch.Generator) else generator
    if not isinstance(generators, Sequence) or not all(isinstance(one, torch.Generator) for one in generators):
        raise OptionError(f"generator must be a torch.Generator or a list of them, not {type(generator).__name__}")
    return [int(torch.randint(2**62, (1,), generator=one, device=one.device)) for one in generators]


def _seeds(seed: Any, prompts: int, each: int) -> list[int]:
    """One seed per image, from a number or from several in a list, range, array or tensor."""
    if seed is None:
        return [secrets.randbits(32) for _ in range(prompts * each)]
    if isinstance(seed, str | bytes) or not isinstance(seed, Iterable) or getattr(seed, "ndim", 1) == 0:
        first = whole("seed", seed)
        return [first + i for _ in range(prompts) for i in range(each)]
    seeds = [whole("seed", one) for one in seed]
    if len(seeds) == prompts * each:
        return seeds
    if len(seeds) == prompts:
        return [first + i for first in seeds for i in range(each)]
    raise OptionError(f"{len(seeds)} seeds for {prompts * each} images; give one, one per prompt or one per image")
