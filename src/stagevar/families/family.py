"""The row of a family in the catalogue: its models, the files of their weights, and the functions that build networks
and read weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
        """The encoders, in the order of ``Size.text``."""

    def __call__(self, prompts: Sequence[str]) -> Text:
        """The prompts' states."""


class Names(Protocol):
    """Maps the names and shapes of published tensors to those of this package."""

    def rename(self, key: str) -> str | None:
        """Our name of a published tensor; None if the network does not need it. ``key`` includes the prefix of its file
        (``File.prefix``). An unknown key is returned unchanged, and the loader reports its tensor as left over."""

    def reshape(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor in the shape and layout of our parameter ``name``. Published tensors carry axes of size 1 for
        broadcasting; those of the attention's temperature depend on the back end that the authors trained with."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a published model, or one folder of shards.

    Attributes:
        repository: repository ``owner/name`` on the Hugging Face hub; empty if users bring their own file.
        path: path in the repository; ends with ``/`` for a folder of shards; empty for the whole repository.
        prefix: text put before the names of the file's tensors, so that tensors of two files have different names.
        inside: nested keys under which the authors keep the state dict, such as ``("trainer", "gpt_fsdp")``.
    """

    repository: str
    path: str
    prefix: str = ""
    inside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Size:
    """One model: its shape, its authors' sampling settings and the files of its weights.

    Attributes:
        config: shape of the network, an instance of ``Family.config``.
        defaults: the authors' sampling settings; None if they are stored with the weights.
        files: the file of the network, then the file of the picture tokenizer.
        text: hub repositories of the text encoders in the layout of transformers.
        licence: licence of the weights, as far as their authors state one.
        note: a remark for users.
        pixels: smallest and largest number of pixels of a picture that the authors trained on; None if they state none.
        shipped: folder inside the package that holds the weights, as ``loading.save.save_model`` writes it.
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
        name: name of the family, and of the folder under ``stagevar.families`` that defines it.
        about: one line for lists.
        config: class of the configs: a frozen dataclass whose fields are numbers, texts, tuples or such dataclasses. It
            raises ``ValueError`` if its fields describe no network.
        sizes: the family's models, by the names that ``Pipeline.from_pretrained`` takes.
        build: maps ``(config, name, defaults)`` to the network without weights.
        names: maps a network to the ``Names`` of its published tensors; None if only this package writes checkpoints.
        adapt: maps ``(config, settings)`` to a corrected config; ``settings`` is the ``config.json`` beside the
            network's published weights. None if the family needs no such file.
        measure: maps ``(config, shapes)`` to a corrected config; ``shapes`` has the shapes of the network's tensors by
            their published names. None if the shapes correct nothing.
        text: maps ``(folders, dtype=, device=, offload=)`` to the text encoder, which the loader sets as the model's
            ``text_encoder``. There is one folder for each entry of ``Size.text``. None if the network itself reads the
            prompt.
        text_folders: folders in the repositories of ``Size.text`` that hold encoder and tokenizer; "" is the root.
        text_parameters: number of parameters of each encoder, according to its configuration.
        tiny: maps changed config fields to a network of a few thousand weights, which ``families.tiny`` sets to random
            numbers.
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
            parameters: largest number of parameters that the network may have.

        Raises:
            ValueError: the config makes no sense, or the network would be larger.
        """
        check_numbers(config)
        with limited(parameters), torch.device("meta"):
            return self.build(config, name, defaults)


def count(names: Iterable[str], pattern: str) -> int:
    """The number of different texts that the pattern's group matches; a match starts at the beginning of a name."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def with_stored_depth(config: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """The config with as many blocks as the checkpoint's tensors have, which are named ``blocks.N.``; a ``measure``."""
    return replace(config, depth=count(shapes, r"blocks\.(\d+)\.") or config.depth)


def without_encoder(config: Any) -> bool:
    """Whether a network's config leaves its picture tokenizer's encoder out."""
    return getattr(getattr(config, "tokenizer", None), "encoder", True) in (False, None)


def with_encoder(config: Any) -> Any:
    """The config of a network of the VQ tokenizer, with its encoder."""
    return replace(config, tokenizer=replace(config.tokenizer, encoder=True))


CONFIG, WEIGHTS = "config.json", "model.safetensors"


def renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with its leading module path replaced, if ``names`` has it."""
    for old, new in names.items():
        if key == old or key.startswith(old + "."):
            return new + key[len(old) :]
    return key
