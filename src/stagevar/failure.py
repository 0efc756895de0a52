"""What a failure means to a user: one line and one exit code."""

from __future__ import annotations

import errno

from stagevar.errors import (
    LONGEST_MESSAGE,
    MissingExtraError,
    MissingFileError,
    OptionError,
    OutputError,
    StagevarError,
    shortened,
)

LONGEST_USAGE = LONGEST_MESSAGE - 100
"""Of what is wrong with a command line, which the command's name follows."""


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and the line that the user sees."""
    if _interrupted(error):
        return 130, "interrupted"
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").split(".")[0]) in ("typer", "rich"):
        error = MissingExtraError(package, "cli")
    if isinstance(error, StagevarError):
        return error.exit_code, str(error)
    if callable(usage := getattr(error, "format_message", None)):  # click's errors, which typer may bundle
        command = getattr(getattr(error, "ctx", None), "command_path", "stagevar")
        return OptionError.exit_code, f"{shortened(usage().rstrip('.'), LONGEST_USAGE)}; see {command} --help"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            OutputError.exit_code,
            f"cannot write {error.filename or 'the output'}: {error.strerror}; free some space",
        )
    if isinstance(error, OSError) and error.filename:
        return MissingFileError.exit_code, f"{error.filename}: {error.strerror}; check the path and its permissions"
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return 1, "out of memory; ask for fewer pictures at once (--batch-size), a smaller size or --dtype bfloat16"
    what = shortened(f"{type(error).__name__}: {error}", LONGEST_USAGE)
    return 1, f"{what} (please report this; --debug shows where it happened)"


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error is an interrupt, or came up on the way out of one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
