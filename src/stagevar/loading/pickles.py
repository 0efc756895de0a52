"""Pickles that ``torch.save`` wrote, read without running code."""

from __future__ import annotations

import argparse
import collections
import pathlib
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stagevar.errors import ForeignCheckpointError, UnsafePickleError


def _without_default(*_: object) -> dict[Any, Any]:
    """Stands for ``defaultdict``, which torch's unpickler does not fill."""
    return {}


DATA: list[Any] = [
    argparse.Namespace,
    (_without_default, "collections.defaultdict"),
    collections.deque,
    collections.Counter,
    dict,
    list,
    tuple,
    set,
    frozenset,
    int,
    float,
    bool,
    str,
    bytes,
    complex,
    slice,
    range,
    pathlib.PurePath,
    pathlib.PurePosixPath,
    pathlib.PosixPath,
    pathlib.PureWindowsPath,
    np.ndarray,
    np.dtype,
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
]
"""Types that hold data only: training scripts keep settings and counters in them beside the weights."""


def read_pickle(path: Path) -> dict[str, Any]:
    """The contents of a ``.pth`` file.

    Raises:
        UnsafePickleError: it would have to run code.
        ForeignCheckpointError: it is damaged, zipped again, or holds no tensors by name.
    """
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_zip(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(DATA):
            warnings.simplefilter("ignore")  # pickle protocols and storage classes of old files
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a broken pickle can raise anything
        if culprit := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UnsafePickleError(
                f"{path} would have to run code to load ({culprit[1]}); if you trust it, convert it to safetensors "
                "elsewhere and load that"
            ) from None
        raise ForeignCheckpointError(
            f"{path} is truncated or no checkpoint ({type(error).__name__}); download it again"
        ) from None
    if not isinstance(state, dict):
        raise ForeignCheckpointError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return state


def _check_zip(path: Path) -> None:
    """Raise unless all records are stored as they are, as ``torch.save`` does.

    Compressed records would be read as garbage, and could unfold to any size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ForeignCheckpointError(
            f"{path} is truncated or no checkpoint ({type(error).__name__}); download it again"
        ) from None
    if packed:
        raise ForeignCheckpointError(
            f"{path} was zipped again with compression, which torch cannot read; unzip it and zip it without (zip -0), "
            "or download it again"
        )
