"""Where finished pictures go: a file each, or shards of many, as WebDataset archives or Parquet tables."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from stagevar.errors import OptionError
from stagevar.files import replacing, unwritable
from stagevar.jobs.columns import pyarrow
from stagevar.jobs.drawn import Drawn

Format = Literal["files", "webdataset", "parquet"]
FORMATS: tuple[Format, ...] = ("files", "webdataset", "parquet")

SHARD_BYTES = 2**28
"""Bytes of pictures that fill a shard, however few they are."""


@dataclass(frozen=True)
class Store:
    """The folder that a job writes to.

    Attributes:
        folder: of the pictures.
        format: ``files`` writes ``ID.png`` and ``ID.json``; ``webdataset`` writes ``00000.tar`` and so on with the same
            members; ``parquet`` writes ``00000.parquet`` with the columns id, prompt, seed, accelerator, image (bytes
            and path, as the datasets library reads pictures) and record.
        shard_size: pictures of a shard.

    Raises:
        OptionError: no such format.
        MissingExtraError: Parquet without pyarrow.
    """

    folder: Path
    format: Format = "files"
    shard_size: int = 1000

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise OptionError(f"format must be one of {', '.join(FORMATS)}, not {self.format}")
        if self.format == "parquet":
            pyarrow()

    @property
    def shards(self) -> bool:
        return self.format != "files"

    def names(self) -> Iterator[str]:
        """The ids of the pictures that lie in the folder as files, from one listing.

        Raises:
            OutputError: the folder cannot be read.
        """
        try:
            with os.scandir(self.folder) as found:
                for each in found:
                    if each.name.endswith(".png") and not any("\ud800" <= letter <= "\udfff" for letter in each.name):
                        yield each.name.removesuffix(".png")
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def refuses(self, name: str, *, begun: bool) -> str:
        """Why no picture of this id can be written, or "".

        Args:
            name: the id.
            begun: whether this job has written to the files of this id before, and they are not noted as finished.
        """
        if self.format == "webdataset" and "." in name:
            return f"the id {name} has a dot, behind which WebDataset reads the kind of a member"
        found = [] if self.shards else [path for path in self._files(name) if os.path.lexists(path)]
        if found and not (begun and _describes(self._files(name)[1], name)):
            return f"{found[0]} is there already, and not from this job"
        return ""

    def write(self, drawn: Sequence[Drawn]) -> None:
        """Write pictures as files.

        Raises:
            OutputError
        """
        for each in drawn:
            picture, record = self._files(each.id)
            with replacing(record) as temporary:
                temporary.write_text(json.dumps(each.record), encoding="utf-8")
            with replacing(picture) as temporary:
                temporary.write_bytes(each.png)

    def shard(self, number: int) -> Path:
        """The path of a shard."""
        return self.folder / f"{number:05d}.{'tar' if self.format == 'webdataset' else 'parquet'}"

    def write_shard(self, number: int, drawn: Sequence[Drawn]) -> Path:
        """Write a shard, which appears whole or not at all.

        Raises:
            OutputError
        """
        path = self.shard(number)
        with replacing(path) as temporary:
            (_write_tar if self.format == "webdataset" else _write_parquet)(temporary, drawn)
        return path

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.png", self.folder / f"{name}.json"


def _describes(path: Path, name: str) -> bool:
    """Whether a file is the record of the picture of an id; it is written before the picture is."""
    try:
        record = json.loads(path.read_bytes())
        return bool(record["id"] == name and {"stagevar", "seed", "scales"} <= record.keys())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_tar(path: Path, drawn: Sequence[Drawn]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for each in drawn:
            for suffix, data in (("png", each.png), ("json", json.dumps(each.record).encode())):
                member = tarfile.TarInfo(f"{each.id}.{suffix}")
                member.size = len(data)
                archive.addfile(member, BytesIO(data))


def _write_parquet(path: Path, drawn: Sequence[Drawn]) -> None:
    pa, parquet = pyarrow()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = {name: pa.array([each.record[name] for each in drawn], pa.string()) for name in ("prompt", "accelerator")}
    table = pa.table(
        {
            "id": pa.array([each.id for each in drawn], pa.string()),
            "prompt": texts["prompt"],
            "seed": pa.array([each.record["seed"] for each in drawn], pa.uint64()),
            "accelerator": texts["accelerator"],
            "image": pa.array([{"bytes": each.png, "path": f"{each.id}.png"} for each in drawn], image),
            "record": pa.array([json.dumps(each.record) for each in drawn], pa.string()),
        }
    )
    features: dict[str, Any] = {name: {"dtype": "string", "_type": "Value"} for name in table.column_names}
    features |= {"seed": {"dtype": "uint64", "_type": "Value"}, "image": {"_type": "Image"}}
    known = json.dumps({"info": {"features": features}})
    parquet.write_table(table.replace_schema_metadata({"huggingface": known}), path)
