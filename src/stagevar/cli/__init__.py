"""The command line. This file turns every failure into one line and one exit code; the commands are in ``app``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from stagevar.errors import MissingExtraError, StagevarError


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with ``arguments``, or with those of the process; its exit code."""
    try:
        from stagevar.cli.app import app

        app(arguments, prog_name="stagevar")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("STAGEVAR_DEBUG", "") not in ("", "0"):
            raise
        code, line = _explain(error)
        print(f"error: {line}", file=sys.stderr)
        return code
    return 0


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and one line."""
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").split(".")[0]) in ("typer", "rich"):
        error = MissingExtraError(package, "cli")
    if isinstance(error, StagevarError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return 1, f"{what} (please report this; --debug shows where it happened)"
