"""From any source of a model to one folder that loads by itself."""

from __future__ import annotations

from pathlib import Path

import torch

from stagevar.engine.contract.model import ScaleModel
from stagevar.loading.save import own_files, save_model
from stagevar.loading.sources import load, resolve
from stagevar.loading.where import Where


def convert(
    source: str | Path,
    folder: Path,
    *,
    weights: str | Path | None = None,
    where: Where | None = None,
    dtype: torch.dtype = torch.float32,
    copy_text: bool = True,
) -> ScaleModel:
    """Load a model, and write it as ``config.json``, ``model.safetensors`` and the folders of its text encoders.

    Loaded in ``dtype``, the folder gives exactly the tensors that the source gives in ``dtype``.

    Args:
        source, weights, where: as in ``sources.resolve``.
        folder: where to: a new or empty folder, or a model of ours, whose files are replaced.
        dtype: of the transformer's blocks and the text encoders; all else is float32.
        copy_text: whether the text encoders go into the folder, or are fetched from the hub when it is loaded.

    Returns:
        The model that was written.

    Raises:
        OutputError: the folder cannot be written.
        the errors of ``sources.load``.
    """
    own_files(folder)
    text = resolve(source, weights, where).text
    model = load(source, weights=weights, where=where, dtype=dtype, text_encoder=copy_text)
    save_model(model, folder, text=text)
    return model
