"""What a benchmark measures: models, accelerators, sizes and batches, each with each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stagevar.errors import MissingFileError, OptionError, first_line, quoted


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: all accelerators on one model, at one size and batch.

    Attributes:
        model: its name.
        size: ``WIDTHxHEIGHT``; empty for the model's own.
        batch: pictures per pass.
    """

    model: str
    size: str
    batch: int

    def __str__(self) -> str:
        return ", ".join([self.model, *([self.size] if self.size else []), f"batch {self.batch}"])


@dataclass(frozen=True)
class Matrix:
    """The settings of a benchmark; each is a key of its YAML file.

    Attributes:
        models: names, folders, files or repositories.
        accelerators: as ``stagevar.registry.parse`` reads them; the plain run is always measured.
        sizes: ``WIDTHxHEIGHT`` each; empty for every model's own.
        batches: pictures per pass.
        captions: how many.
        seeds: pictures of each caption; of several their diversity is measured.
        prompts: file with a prompt per line; empty for the questions of the model's suite.
        guidance: strength; None for the model's default.
        seed: of the first picture.
        device, dtype: as in ``Pipeline.from_pretrained``.
        lpips: file of LPIPS weights, or two (trunk, then its head); none leaves LPIPS out.
        shown: captions whose pictures are in the report, at most all of them.

    Raises:
        OptionError: a setting of another kind, or out of range.
    """

    models: tuple[str, ...] = ("scenes",)
    accelerators: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1,)
    captions: int = 60
    seeds: int = 1
    prompts: str = ""
    guidance: float | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    lpips: tuple[str, ...] = ()
    shown: int = 3

    def __post_init__(self) -> None:
        for f in fields(self):
            _check(f.name, getattr(self, f.name), f.default)
        for name in ("models", "batches"):
            if not getattr(self, name):
                raise OptionError(f"{name} is empty; name at least one")
        for name, least in (("captions", 1), ("seeds", 1), ("shown", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if min(self.batches) < 1:
            raise OptionError(f"batches must be 1 or more, not {min(self.batches)}")

    @classmethod
    def read(cls, path: Path) -> Matrix:
        """The settings of a YAML file; those that it leaves out have their defaults.

        Raises:
            MissingFileError: it cannot be read.
            OptionError: no YAML, a key that there is not, or a value of another kind.
        """
        import yaml

        try:
            found = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise MissingFileError(f"cannot read {path}: {error.strerror or error}") from None
        except Exception as error:  # of a value that is not what its tag says, YAML raises whatever Python does
            raise OptionError(f"{path} is no YAML: {first_line(error)}") from None
        if not isinstance(found, dict):
            raise OptionError(f"{path} must hold keys and values, such as 'captions: 60'")
        known = [f.name for f in fields(cls)]
        for key in found:
            if key not in known:
                near = get_close_matches(str(key), known, 1)
                hint = f"; did you mean {near[0]}?" if near else ";"
                raise OptionError(f"{path}: there is no key {quoted(key)}{hint} keys are {', '.join(known)}")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return cls(**settings)

    def cells(self) -> Iterator[Cell]:
        """All comparisons, model by model."""
        for model in self.models:
            for size in self.sizes or ("",):
                for batch in self.batches:
                    yield Cell(model, size, batch)

    def asked(self, cell: Cell) -> dict[str, Any]:
        """What is asked of a cell, as JSON has it: two reports are compared where this is the same."""
        names = ("captions", "seeds", "prompts", "guidance", "seed")
        own = {"model": cell.model, "size": cell.size, "batch": cell.batch}
        return own | {name: getattr(self, name) for name in names} | {"lpips": list(self.lpips)}


LISTS: Mapping[str, type] = {"models": str, "accelerators": str, "sizes": str, "lpips": str, "batches": int}


def _check(name: str, value: object, usual: object) -> None:
    """Raise unless a setting has the kind of its default."""
    if name in LISTS:
        sound = isinstance(value, tuple) and all(type(each) is LISTS[name] for each in value)
        what = f"a list of {'whole numbers' if LISTS[name] is int else 'texts'}"
    elif name == "guidance":
        sound, what = value is None or (isinstance(value, int | float) and not isinstance(value, bool)), "a number"
    else:
        sound, what = type(value) is type(usual), "a whole number" if isinstance(usual, int) else "a text"
    if not sound:
        raise OptionError(f"{name} must be {what}, not {quoted(value)}")
