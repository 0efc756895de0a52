"""Compare the engine with stored reference outputs: ``conform(folder)``.

A set is a folder of ``config.json`` (every hyper-parameter), ``weights.safetensors`` (random weights under the names of
published checkpoints) and ``io.safetensors`` (inputs, intermediate values, outputs). A family's checks are in
``<family>.py`` beside this file, those of sets with a ``method`` in ``accelerators.py``: a function ``check(probe)``
that runs the engine and hands what it finds to the probe. A stored tensor that no check looks at is a failure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stagevar.errors import ForeignCheckpointError, OptionError, UnknownModelError
from stagevar.loading.read import load_config, read_state
from stagevar.measure.conform.precise import SPREAD, in_float64

RELATIVE = 1e-4
"""Allowed error relative to the stored value, added to the absolute one."""

ABSOLUTE = (
    (r"ar\.logits\.\d+|ar_single\.logits\.\d+", 2e-3),
    (r"tf\.(logits|block0).*|.*\.block0\.\d+|stage2\.logits|diffnet\.out", 5e-4),
    (r".*\.image|vae\.recon|vae\.decoded_unclamped", 5e-4),
    (r".*\.fhat.*|.*\.latent_final|.*\.next_in\.\d+|smooth\.h\.\d+|crop\.vector.*", 2e-4),
    (r"ar\.residual", 1e-2),
    (r".*", 2e-5),
)
"""Allowed absolute error of real numbers by name; the first pattern that fits counts. Two correct float32
implementations differ by a tenth of these."""

OPTIONAL = ("stoch.",)
"""Runs whose draws depend on another implementation's order of random numbers."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor: its worst element, by error over tolerance.

    Attributes:
        error: absolute difference; for bits and indices the share of entries that differ; infinite where shapes differ
            or a value is not a number.
        tolerance: what is allowed there.
    """

    tensor: str
    error: float
    tolerance: float

    @property
    def ratio(self) -> float:
        return self.error / self.tolerance if self.tolerance else (math.inf if self.error else 0.0)

    @property
    def ok(self) -> bool:
        return self.ratio <= 1


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared in one set.

    Attributes:
        rows: one per tensor, in the order of the checks.
        unchecked: stored tensors that no check looked at.
    """

    set: str
    rows: tuple[Row, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.rows) and not self.unchecked and all(row.ok for row in self.rows)

    @property
    def checked(self) -> int:
        return len(self.rows)

    @property
    def worst(self) -> Row | None:
        """The tensor nearest to, or farthest beyond, its tolerance."""
        return max(self.rows, key=lambda row: row.ratio, default=None)

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.ok)

    def to_json(self) -> dict[str, Any]:
        """Plain data; an infinite error is null."""
        worst = self.worst
        summary: dict[str, Any] = {"set": self.set, "ok": self.ok, "checked": self.checked, "worst": None}
        if worst is not None:
            error = worst.error if math.isfinite(worst.error) else None
            summary["worst"] = {"tensor": worst.tensor, "error": error, "tolerance": worst.tolerance}
        return summary | ({"unchecked": list(self.unchecked)} if self.unchecked else {})


@dataclass(slots=True)
class Probe:
    """One set at work: gives a family's checks the config, weights and inputs, and compares their results.

    Attributes:
        folder, config, weights, stored: the set.
        rows: comparisons so far.
        inputs: names of the stored tensors that were used as inputs.
        exactly: chaotic tensors of a run in float64, by name; None in that run itself.
        noted: chaotic tensors of this run, by name.
    """

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    stored: dict[str, Tensor]
    rows: list[Row] = field(default_factory=list)
    inputs: set[str] = field(default_factory=set)
    exactly: Mapping[str, Tensor] | None = None
    noted: dict[str, Tensor] = field(default_factory=dict)

    def holds(self, prefix: str) -> bool:
        """Whether the set stores any tensor of that prefix."""
        return any(name.startswith(prefix) for name in self.stored)

    def input(self, name: str) -> Tensor:
        """A stored tensor that the engine is fed with.

        Raises:
            ForeignCheckpointError: the set does not hold it.
        """
        if name not in self.stored:
            raise ForeignCheckpointError(f"{self.folder} has no tensor {name} in io.safetensors")
        self.inputs.add(name)
        return self.stored[name]

    def numbers(self, name: str, found: Tensor, absolute: float | None = None) -> None:
        """Compare real numbers, or 8-bit ones with a given ``absolute`` tolerance, if the set stores ``name``."""
        if name not in self.stored:
            return
        if absolute is None:
            absolute = next(value for pattern, value in ABSOLUTE if re.fullmatch(pattern, name))
        want = self.stored[name].double()
        if found.shape != want.shape or not found.numel():
            self.rows.append(Row(name, 0.0 if found.shape == want.shape else math.inf, absolute))
            return
        error = (found.double().cpu() - want).abs().nan_to_num(math.inf, math.inf)
        allowed = absolute + RELATIVE * want.abs().nan_to_num(0.0, 0.0)
        at = (error / allowed).argmax()
        self.rows.append(Row(name, error.flatten()[at].item(), allowed.flatten()[at].item()))

    def chaotic(self, name: str, found: Tensor, absolute: float) -> None:
        """Compare real numbers that enlarge rounding. The tolerance is ``absolute`` plus ``SPREAD`` times the engine's
        own error against its run in float64."""
        self.noted[name] = found.double().cpu()
        if self.exactly is not None and name in self.exactly and found.shape == self.exactly[name].shape:
            error = (self.noted[name] - self.exactly[name]).abs().max().item()
            self.numbers(name, found, absolute + SPREAD * error)
        else:
            self.numbers(name, found, absolute)

    def exact(self, name: str, found: Tensor, share: float = 0.0, *, ordered: bool = True) -> None:
        """Compare bits or indices if the set stores ``name``; at most ``share`` of them may differ. Not ``ordered``,
        those of the last axis are compared as sets, of which ``found`` is ascending."""
        if name not in self.stored:
            return
        want = self.stored[name].long()
        want = want if ordered else want.sort(-1).values
        if found.shape != want.shape:
            self.rows.append(Row(name, math.inf, share))
            return
        differing = (found.long().cpu() != want).sum().item()
        self.rows.append(Row(name, differing / max(want.numel(), 1), share))

    def report(self) -> Report:
        seen = self.inputs | {row.tensor for row in self.rows}
        left = sorted(name for name in self.stored if name not in seen and not name.startswith(OPTIONAL))
        return Report(self.folder.resolve().name, tuple(self.rows), tuple(left))


class Recorder(dict[tuple[str, int], Tensor]):
    """A tap of the loop that keeps by name and scale what sets store."""

    def __call__(self, name: str, scale: int, tensor: Tensor) -> None:
        if name in ("block.0", "logits", "codes", "residual", "latent"):
            self[name, scale] = tensor


def conform(folder: Path | str) -> Report:
    """Run the engine on one set and compare every stored tensor.

    Raises:
        MissingFileError: no such folder, or a file of it is missing.
        ForeignCheckpointError, ShapeError: a file cannot be read, or does not describe the network.
        UnknownModelError: a family without checks.
        OptionError: settings of the set that the engine does not offer.
    """
    folder = Path(folder)
    config = load_config(folder)
    family = str(config.get("model"))
    if not family.isidentifier() or find_spec(f"stagevar.measure.conform.{family}") is None:
        raise UnknownModelError(f"{folder}/config.json: no checks for model {family!r}")
    weights = folder / str(config.get("weights", "weights.safetensors"))
    probe = Probe(folder, config, read_state(weights), read_state(folder / "io.safetensors"))
    checks = "accelerators" if "method" in config else family
    check = import_module(f"stagevar.measure.conform.{checks}").check
    try:
        with torch.inference_mode():
            if probe.holds("smooth."):
                doubled = {name: x.double() if x.is_floating_point() else x for name, x in probe.stored.items()}
                precise = replace(probe, stored=doubled, rows=[], inputs=set(), noted={})
                with in_float64():
                    check(precise)
                probe.exactly = precise.noted
            check(probe)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:  # of a shape that does not fit
        why = str(error).partition("\n")[0]
        raise ForeignCheckpointError(f"{folder} does not fit together: {type(error).__name__}: {why}") from error
    return probe.report()


@contextmanager
def reading_config(folder: Path) -> Iterator[None]:
    """Turn whatever fails while a set's settings are read into an error of one line.

    Raises:
        ForeignCheckpointError: a setting is missing or makes no sense.
    """
    try:
        yield
    except KeyError as error:
        raise ForeignCheckpointError(f"{folder}/config.json lacks {error}") from error
    except (TypeError, ValueError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ForeignCheckpointError(f"{folder}/config.json does not describe a network ({error})") from error


def require(config: Mapping[str, Any], **values: object) -> None:
    """Settings of a set that must have one value, if they are given.

    Raises:
        OptionError: another value.
    """
    for name, value in values.items():
        if config.get(name, value) != value:
            raise OptionError(f"config.json asks for {name} = {config[name]!r}; the engine knows {value!r} only")
