"""Writing files so that nothing half-written is left behind, and nothing of others is replaced or removed."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from stagevar.errors import OutputError


def one_name(text: str) -> bool:
    """Whether a text is the name of one file or folder, and no path that leads elsewhere."""
    return 0 < len(text.encode(errors="replace")) <= 255 and text not in (".", "..") and not set(text) & set("/\\\0")


def is_stdout(path: Path) -> bool:
    """Whether a path leads to what standard output goes to, such as ``/dev/stdout``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except (OSError, ValueError):
        return False


def require_place(path: Path, *, folder: bool) -> None:
    """Raise unless a file can be written to a path, or files into the folder of that name; nothing is written.

    Raises:
        OutputError
    """
    try:
        target = path.resolve() if path.is_symlink() else path
        above = next(each for each in (target, *target.parents) if os.path.lexists(each))
        if above.is_dir() and (folder or above != target):
            with tempfile.TemporaryFile(dir=above):
                return
        if above == target and not folder and not target.is_dir() and os.access(target, os.W_OK):
            return
    except OSError as error:
        raise unwritable(path, error) from error
    raise OutputError(f"cannot write {path}: {above} is no place that can be written to")


def require_own(path: Path, own: Callable[[Path], bool]) -> None:
    """Raise if a file that an earlier run did not write is where a file is to go; an empty one holds nothing to lose,
    and a device, a pipe and standard output are written into.

    Args:
        own: whether a file was written by an earlier run.

    Raises:
        OutputError
    """
    try:
        if path.is_file() and path.stat().st_size and not is_stdout(path) and not own(path):
            raise OutputError(f"{path} was not written by this command and is kept; choose another name")
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which takes the place of ``path`` at the end.

    On any failure, an interrupt included, the temporary file is removed and ``path`` stays as it was. A symbolic link
    stays one, and the file that it leads to is replaced; into a device, a pipe or standard output the contents are
    written.

    Raises:
        OutputError: the folder or the file cannot be written.
    """
    try:
        stdout = is_stdout(path)
        special = stdout or (path.exists() and not path.is_file())
        target = path.resolve() if path.is_symlink() and not special else path
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    folder = Path(tempfile.gettempdir()) if special else target.parent
    temporary = folder / f".{target.name[:100]}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
        if stdout:
            sys.stdout.flush()
            sys.stdout.buffer.write(temporary.read_bytes())
            sys.stdout.buffer.flush()
        elif special:
            with path.open("wb") as sink, temporary.open("rb") as source:
                shutil.copyfileobj(source, sink)
        else:
            temporary.replace(target)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # its folder may be out of reach, and then there is nothing to tidy
            temporary.unlink(missing_ok=True)


def numbered(folder: Path, stem: str, suffix: str, number: int) -> Path:
    """The path of the file that is the ``number``-th of its stem, from 1."""
    return folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")


@contextmanager
def reserving(folder: Path, stem: str, suffix: str, number: int = 1) -> Iterator[tuple[Path, Path]]:
    """A name in a folder that no other writer has or gets, counted up from ``stem`` and ``number``, and a temporary
    file that takes its place at the end; on any failure the name is free again.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = numbered(folder, stem, suffix, number)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path.open("xb").close()
                break
            except FileExistsError:
                number += 1
                path = numbered(folder, stem, suffix, number)
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
def renewing(folder: Path, own: Collection[str]) -> Iterator[Path]:
    """A temporary folder to write to, whose files take their places in ``folder`` at the end, all of them or none.

    Files of others are neither replaced nor removed, and links are not followed: what is in a file's place has to be
    one of ``own``, and no link. Of ``own``, files that were not written again are removed. On any failure, an interrupt
    included, the temporary folder is removed, and the folder as well if it was made for this.

    Args:
        folder: target; made if it does not exist.
        own: paths in ``folder`` of the files that an earlier call wrote.

    Raises:
        OutputError: the folder cannot be written, or something else is in the place of a file.
    """
    temporary = folder / f".{secrets.token_hex(4)}.tmp"
    made = not folder.exists()
    try:
        temporary.mkdir(parents=True)
        yield temporary
        files = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
        for file in files:
            if not _free(folder, file, own):
                raise OutputError(f"{folder / file} was not written by stagevar and is kept; choose another folder")
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (temporary / file).replace(folder / file)
        for file in set(own) - set(files):
            if not _linked(folder, file):
                _remove(folder, file)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with suppress(OSError):  # holds what was written
                folder.rmdir()


def _remove(folder: Path, file: str) -> None:
    """Remove a file, and the folders that it leaves empty."""
    (folder / file).unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        for parent in PurePosixPath(file).parents[:-1]:
            (folder / parent).rmdir()


def _free(folder: Path, file: str, own: Collection[str]) -> bool:
    """Whether a path in a folder may be written to."""
    path = folder / file
    return not _linked(folder, file) and (not path.exists() or (file in own and path.is_file()))


def _linked(folder: Path, file: str) -> bool:
    """Whether a path in a folder leads over a link."""
    parts = PurePosixPath(file).parts
    return any(folder.joinpath(*parts[: n + 1]).is_symlink() for n in range(len(parts)))


def unwritable(path: Path, error: OSError) -> OutputError:
    """The error of a path that the operating system does not let us write."""
    return OutputError(f"cannot write {path}: {error.strerror or error}; free some space or choose another folder")
