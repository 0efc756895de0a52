"""The command line. This file turns every failure into one line and one exit code. ``COMMANDS`` lists the files that
hold the commands."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from stagevar.errors import (
    LONGEST_MESSAGE,
    MissingExtraError,
    MissingFileError,
    OptionError,
    OutputError,
    StagevarError,
    Terminated,
    shortened,
)

COMMANDS = ("generate", "models", "accelerators", "bench", "study", "conform")
"""Files of commands, in the order of the help."""

LONGEST_USAGE = LONGEST_MESSAGE - 100
"""Of what is wrong with a command line, which the command's name follows."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show must not end a run
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run())


def _terminated(*_: object) -> None:
    """Raise instead of ending at once, so that temporary files are removed."""
    raise Terminated("terminated")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with ``arguments``, or with those of the process.

    Returns:
        The exit code.
    """
    try:
        from stagevar.cli.options import app

        for name in COMMANDS:
            import_module(f"stagevar.cli.{name}")
        code = app(arguments, prog_name="stagevar", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        if code == 130:  # an interrupt before the command began
            raise KeyboardInterrupt
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("STAGEVAR_DEBUG", "") not in ("", "0"):
            raise
        code, line = _explain(error)
        with suppress(OSError):  # nobody may be listening
            print(f"error: {shortened(' '.join(line.split()), LONGEST_MESSAGE)}", file=sys.stderr, flush=True)
        return code
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and the line that the user sees."""
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").split(".")[0]) in ("typer", "rich"):
        error = MissingExtraError(package, "cli")
    if isinstance(error, StagevarError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
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
