"""What a family tells the catalogue: its sizes, where their weights are published, and how to build and read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stagevar.engine.contract.model import Defaults, ScaleModel
from stagevar.engine.contract.text import Text
from stagevar.families.limits import MOST_PARAMETERS, check_numbers, limited
from stagevar.families.text_encoders.encoder import TextEncoder


class TextReader(Protocol):
    """A text encoder, or several that read every prompt together."""

    @property
    def encoders(self) -> tuple[TextEncoder, ...]:
        """Each of them, in the order of ``Size.text``."""

    def __call__(self, prompts: Sequence[str]) -> Text:
        """The prompts' states."""


class Names(Protocol):
    """From the names and shapes of published tensors to those of this package."""

    def rename(self, key: str) -> str | None:
        """Our name of a tensor, its part's prefix included; None for one that is not needed. A name that the network
        does not have comes back as it is and is reported as left over."""

    def reshape(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor as ``name`` (ours) has it, whatever back end of attention wrote it."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a published model, or one folder of shards.

    Attributes:
        repository: on the Hugging Face hub, ``owner/name``; empty where users have their own file.
        path: path in the repository; ends with ``/`` for a folder of shards; empty for the whole repository.
        prefix: put before its tensors' names, so that those of two files do not collide.
        inside: keys under which the authors keep the state dict, such as ``("trainer", "gpt_fsdp")``.
    """

    repository: str
    path: str
    prefix: str = ""
    inside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Size:
    """One model: its shape, its authors' sampling settings and where its weights are.

    Attributes:
        config: the family's config.
        defaults: None where they come with the weights.
        files: network first, then the picture tokenizer.
        text: hub repositories of the text encoders in the layout of transformers.
        licence: of the weights, as far as their authors state it.
        note: what a user should know.
        pixels: least and most pixels of a picture that the authors trained for, as far as they say so.
        shipped: folder inside the package that holds the weights, as ``folder.save_model`` writes it.
    """

    config: Any
    defaults: Defaults | None = None
    files: tuple[File, ...] = ()
    text: tuple[str, ...] = ()
    licence: str = ""
    note: str = ""
    pixels: tuple[int, int] | None = None
    shipped: Path | None = None

    @property
    def published(self) -> bool:
        """Whether the network's weights are on the hub."""
        return bool(self.files) and bool(self.files[0].repository)


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the catalogue.

    Attributes:
        name: of the family and of the folder under ``stagevar.families`` that defines it.
        about: one line for lists.
        config: a frozen dataclass of numbers, texts, tuples and such dataclasses; one that makes no sense raises
            ``ValueError``.
        sizes: by the name that ``Pipeline.from_pretrained`` takes.
        build: ``(config, name, defaults)`` to the network, without weights.
        names: of a network's published tensors; None where only this package writes checkpoints.
        adapt: ``(config, settings)`` to the config corrected by the ``config.json`` that lies beside the network's
            published weights; None where there is none that matters.
        measure: ``(config, shapes)`` to the config corrected by the shapes of the network's tensors, by their published
            names; None where they say nothing more.
        text: ``(folders, dtype=, device=, offload=)`` to the text encoder that is set as the model's ``text_encoder``,
            from one folder for each of ``Size.text``. None where the network itself reads the prompt.
        text_folders: in those repositories, that encoder and tokenizer are in; "" is the root.
        text_parameters: of each encoder, as its configuration has them.
        tiny: changed config fields to a network of a few thousand weights, which ``families.tiny`` fills at random.
    """

    name: str
    about: str
    config: type[Any]
    sizes: Mapping[str, Size]
    build: Callable[[Any, str, Defaults | None], ScaleModel]
    names: Callable[[Any], Names] | None = None
    adapt: Callable[[Any, dict[str, Any]], Any] | None = None
    measure: Callable[[Any, Mapping[str, tuple[int, ...]]], Any] | None = None
    text: Callable[..., TextReader] | None = None
    text_folders: tuple[str, ...] = ("",)
    text_parameters: tuple[int, ...] = ()
    tiny: Callable[[dict[str, Any]], ScaleModel] | None = None

    def outline(
        self, config: Any, name: str, defaults: Defaults | None = None, parameters: int = MOST_PARAMETERS
    ) -> ScaleModel:
        """The network on the meta device: all its shapes, none of its weights.

        Args:
            parameters: that it may have.

        Raises:
            ValueError: the config makes no sense, or the network would be larger.
        """
        check_numbers(config)
        with limited(parameters), torch.device("meta"):
            return self.build(config, name, defaults)


def count(names: Iterable[str], pattern: str) -> int:
    """How many different texts a pattern's group has at the beginning of names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def without_encoder(config: Any) -> bool:
    """Whether a network's config leaves its picture tokenizer's encoder out."""
    return getattr(getattr(config, "tokenizer", None), "encoder", True) in (False, None)


CONFIG, WEIGHTS = "config.json", "model.safetensors"


def renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with its leading module path replaced, if ``names`` has it."""
    for old, new in names.items():
        if key == old or key.startswith(old + "."):
            return new + key[len(old) :]
    return key
