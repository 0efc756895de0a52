"""Writing files so that nothing half-written is left behind, and nothing of others is replaced or removed."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stagevar.errors import OutputError


def one_name(text: str) -> bool:
    """Whether a text is the name of one file or folder, and no path that leads elsewhere."""
    return 0 < len(text.encode(errors="replace")) <= 255 and text not in (".", "..") and not set(text) & set("/\\\0")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which takes the place of ``path`` at the end.

    On any failure, an interrupt included, the temporary file is removed and ``path`` stays as it was. A symbolic link
    stays one, and the file that it leads to is replaced; into a device or a pipe the contents are written.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    try:
        special = path.exists() and not path.is_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        target = path.resolve() if path.is_symlink() and not special else path
    except OSError as error:
        raise unwritable(path, error) from error
    folder = Path(tempfile.gettempdir()) if special else target.parent
    temporary = folder / f".{target.name[:100]}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        if special:
            with path.open("wb") as sink, temporary.open("rb") as source:
                shutil.copyfileobj(source, sink)
        else:
            temporary.replace(target)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # its folder may be out of reach, and then there is nothing to tidy
            temporary.unlink(missing_ok=True)


@contextmanager
def reserving(folder: Path, stem: str, suffix: str) -> Iterator[tuple[Path, Path]]:
    """A name in a folder that no other writer has or gets, counted up from ``stem``, and a temporary file that takes
    its place at the end; on any failure the name is free again.

    Raises:
        OutputError: the folder cannot be written.
    """
    number, path = 1, folder / f"{stem}{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path.open("xb").close()
                break
            except FileExistsError:
                number += 1
                path = folder / f"{stem}-{number}{suffix}"
    except OSError as error:
        raise unwritable(path, error) from error
    done = False
    try:
        with replacing(path) as temporary:
            yield path, temporary
        done = True
    finally:
        if not done:
            with suppress(OSError):
                path.unlink(missing_ok=True)


@contextmanager
def adding_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to write to, whose files take their places in ``path`` at the end; other files there stay.

    Raises:
        OutputError: a file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for source in sorted(each for each in temporary.rglob("*") if each.is_file()):
            target = path / source.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror or error}; free some space or choose another folder")
