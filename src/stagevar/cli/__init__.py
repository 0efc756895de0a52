"""The command line. This file turns every failure into one line and one exit code. ``COMMANDS`` lists the files that
hold the commands."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from stagevar.errors import LONGEST_MESSAGE, Terminated, shortened
from stagevar.failure import explain
from stagevar.parallel.team import team

COMMANDS = (
    "generate",
    "edit",
    "why",
    "batch",
    "eval",
    "serve",
    "models",
    "accelerators",
    "bench",
    "search",
    "study",
    "conform",
    "ui",
)
"""Files of commands, in the order of the help."""


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
        with team().failing(explain):
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
        code, line = explain(error)
        with suppress(OSError):  # nobody may be listening
            print(f"error: {shortened(' '.join(line.split()), LONGEST_MESSAGE)}", file=sys.stderr, flush=True)
        return code
    return code if isinstance(code, int) else 0
