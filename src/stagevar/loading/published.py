"""Loading a model from the files that its authors published, or that their training wrote, here or on the hub."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from stagevar.engine.contract.model import ScaleModel
from stagevar.errors import ForeignCheckpointError, MissingFileError
from stagevar.families.family import CONFIG, Family, Size, TextReader, with_encoder, without_encoder
from stagevar.loading.expected import Expected
from stagevar.loading.fill import fill
from stagevar.loading.place import Placement
from stagevar.loading.read import load_config, read_state
from stagevar.loading.where import Where

log = logging.getLogger(__name__)


def load_encoder(family: Family, size: Size, where: Where, place: Placement) -> TextReader | None:
    """The text encoder of a model, None if its network reads the prompts itself or none is wanted.

    Raises:
        MissingFileError, ForeignCheckpointError, MissingExtraError
    """
    if family.text is None or not size.text or not place.text_encoder:
        return None
    folders = [where.encoder(repository, size, family.text_folders) for repository in size.text]
    return family.text(folders, dtype=place.dtype, device=place.device, offload=place.offload_text_encoder)


def load_published(name: str, family: Family, size: Size, where: Where, place: Placement) -> ScaleModel:
    """The network of a published model with its tokenizer and text encoder.

    The network's file is downloaded first if need be. The text encoder is loaded before that file is read, so that an
    encoder that does not work is found early. A file of the user's is read first: text encoder and tokenizer are
    downloaded only if it holds the network.

    Args:
        name: name of the model.
        family, size: its rows of the catalogue.
        where: where its files are looked for.
        place: how it is put into memory.

    Raises:
        MissingFileError, ForeignCheckpointError, ShapeError, UnsafePickleError, MissingExtraError, OutputError
    """
    if not size.published and where.network is None:
        raise MissingFileError(f"{name} has no published weights; give your own network's file as its weights")
    network_file, tokenizer_file = size.files
    path = where.find(network_file, size)
    config, stated = _config(family, size, where)
    if place.encoder and without_encoder(config):
        config = with_encoder(config)
    encoder = load_encoder(family, size, where, place) if where.folder is None else None
    state = read_state(path)
    try:
        expected = Expected(family, size, config, name)
        network = expected.network(state, path, where.key, told=where.folder is not None)
        if family.measure is not None and not stated:
            shapes = {key: tuple(tensor.shape) for key, tensor in network.tensors.items()}
            expected = Expected(family, size, _told(config, family.measure(config, shapes), path, name), name)
    except ValueError as error:
        raise ForeignCheckpointError(f"{path} does not fit {name}: {error}") from None
    expected.require(network, path)
    encoder = encoder or load_encoder(family, size, where, place)
    tokenizer = expected.tokenizer_inside(state, path)
    if tokenizer is None:
        elsewhere = where.find(tokenizer_file, size)
        tokenizer = expected.tokenizer(read_state(elsewhere), elsewhere)

    tensors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    for file, nest in ((network_file, network), (tokenizer_file, tokenizer)):
        tensors |= {file.prefix + key: tensor for key, tensor in nest.tensors.items()}
        keys |= {file.prefix + key: own for key, own in nest.keys.items()}
    names = expected.names
    how: dict[str, Any] = {"source": path, "dtype": place.dtype, "as_stored": place.as_stored, "keys": keys}
    fill(expected.model, tensors, names.rename, names.reshape, quantize=place.quantize, **how)
    expected.model.quantized, expected.model.text_encoder = place.quantize, encoder
    return expected.model.to(place.device)


def _config(family: Family, size: Size, where: Where) -> tuple[Any, bool]:
    """The row's config, and whether it is as the settings beside the network's weights state it; a file of the user's
    may have none."""
    if family.adapt is None:
        return size.config, False
    folder = size.files[0].path.rpartition("/")[0]
    try:
        settings = where.find(size.files[0], size, f"{folder}/{CONFIG}" if folder else CONFIG)
    except MissingFileError:
        if where.network is None:
            raise
        return size.config, False
    return family.adapt(size.config, load_config(settings.parent)), True


def _told(config: Any, measured: Any, path: Path, name: str) -> Any:
    """The config as the shapes of tensors have it; it is logged how it differs from the model's."""
    pairs = [(each.name, getattr(config, each.name), getattr(measured, each.name)) for each in fields(config)]
    if changed := [f"{field} {new} in place of {old}" for field, old, new in pairs if new != old]:
        log.warning("%s is read as a %s with %s", path, name, ", ".join(changed))
    return measured


def within(family: Family, size: Size, where: Where) -> bool:
    """Whether the network's file, if it is the user's, holds the picture tokenizer too.

    Raises:
        those of ``read_state``.
    """
    if where.folder is None or family.names is None:
        return False
    try:
        path = where.find(size.files[0], size)
    except MissingFileError:
        return False
    expected = Expected(family, size, _config(family, size, where)[0])
    return expected.tokenizer_inside(read_state(path), path) is not None
