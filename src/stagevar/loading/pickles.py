"""Pickles that ``torch.save`` wrote, read without running code."""

from __future__ import annotations

import argparse
import builtins
import pathlib
import re
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stagevar.errors import ForeignCheckpointError, UnsafePickleError, shortened
from stagevar.untrusted import check_archive


def _no_default(*_: object) -> dict[Any, Any]:
    """Stands for ``defaultdict``, as torch's unpickler cannot fill one."""
    return {}


def _no_array(*_: object) -> Any:
    """Stands for numpy's beginning of an array, whose shape and numbers the pickle sets next."""
    return np.empty(0)


def _scalar(kind: np.dtype[Any], value: bytes) -> Any:
    """Numpy's scalar of the very bytes; its own function makes one of any size without them."""
    return np.frombuffer(value, kind, 1)[0]


_DATA: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": argparse.Namespace,
    "collections.defaultdict": _no_default,
    **{f"builtins.{kind}": getattr(builtins, kind) for kind in ("dict", "list", "tuple", "set", "frozenset")},
    **{f"builtins.{kind}": getattr(builtins, kind) for kind in ("int", "float", "bool", "str", "slice")},
    **{
        f"pathlib.{module}{kind}": pathlib.PureWindowsPath if "Windows" in kind else pathlib.PurePosixPath
        for module in ("", "_local.")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
    **{f"numpy.{module}.multiarray._reconstruct": _no_array for module in ("core", "_core")},
    **{f"numpy.{module}.multiarray.scalar": _scalar for module in ("core", "_core")},
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{f"numpy.dtypes.{name}": kind for name, kind in vars(np.dtypes).items() if isinstance(kind, type)},
}
"""Types that hold data only: training scripts keep settings and counters in them beside the weights."""

_ONE_AT_A_TIME = threading.Lock()
"""What torch may read is a setting of the process."""


def read_pickle(path: Path) -> dict[str, Any]:
    """The contents of a ``.pth`` file.

    Raises:
        UnsafePickleError: it would have to run code.
        ForeignCheckpointError: it is damaged, zipped again, or holds no tensors by name.
    """
    zipped = check_archive(path)
    data: list[Any] = [(kind, name) for name, kind in _DATA.items()]
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings(), torch.serialization.safe_globals(data):
            warnings.simplefilter("ignore")  # pickle protocols and storage classes of old files
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a broken pickle can raise anything
        if culprit := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UnsafePickleError(
                f"{path} would have to run code to load ({shortened(culprit[1], 80)}); if you trust it, convert it to "
                "safetensors elsewhere and load that"
            ) from None
        why = "a TorchScript program" if "TorchScript" in str(error) else type(error).__name__
        raise ForeignCheckpointError(f"{path} is truncated or no checkpoint ({why}); download it again") from None
    if not isinstance(state, dict):
        raise ForeignCheckpointError(f"{path} holds a {type(state).__name__}, not tensors by name")
    return state
