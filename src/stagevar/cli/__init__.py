"""The command line. This file turns every failure into one line and one exit code; the commands are in ``app``."""

from __future__ import annotations

import os
import sys

from stagevar.errors import MissingExtraError, StagevarError


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run())


def run() -> int:
    """Run the command line; its exit code."""
    try:
        try:
            from stagevar.cli.app import app
        except ModuleNotFoundError as error:
            if error.name not in ("typer", "rich"):
                raise
            raise MissingExtraError(error.name, "cli") from None
        app(prog_name="stagevar")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except StagevarError as error:
        return _report(error, error.exit_code, str(error))
    except KeyboardInterrupt as error:
        return _report(error, 130, "interrupted")
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _report(error, 1, f"{what} (please report this; --debug shows where it happened)")
    return 0


def _report(error: BaseException, code: int, line: str) -> int:
    if os.environ.get("STAGEVAR_DEBUG", "") not in ("", "0"):
        raise error
    print(f"error: {line}", file=sys.stderr)
    return code
