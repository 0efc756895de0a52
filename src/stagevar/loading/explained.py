"""What went wrong between us and the hub, in words of what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stagevar.errors import MissingFileError, OutputError, first_line
from stagevar.loading.hub import NOT_CACHED, status_of
from stagevar.quiet import errors_only

ANSWERS = {
    401: "the hub refuses the token (401); log in anew with `hf auth login`, or leave the token out",
    403: "the hub or a proxy refuses access (403); log in with `hf auth login`, or check the proxy",
    429: "the hub is asked too often from here (429); wait some minutes, or log in with `hf auth login`",
}
"""What answers to requests mean that are not about a repository."""

ELSEWHERE = "free some space or set HF_HOME to a folder of another disk"


@contextmanager
def explained(repository: str, file: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Whatever the hub's client raises, as an error that names the file and says what to do."""
    try:
        with errors_only("huggingface_hub"):
            yield
    except OutputError:
        raise
    except Exception as error:
        at = f" at revision {options['revision']}" if options["revision"] else ""
        what = f"{file or 'the files'} of {repository}{at}"
        if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.filename:
            raise OutputError(f"{what}: {error.filename}: {error.strerror}; {ELSEWHERE}") from None
        raise MissingFileError(f"{what}: {_remedy(error, repository, file, options)}") from None


def _remedy(error: Exception, repository: str, file: str, options: Mapping[str, Any]) -> str:
    """What went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return "access has to be granted on the repository's page; then log in with `hf auth login` or pass a token"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private; log in with `hf auth login` or pass a token"
    absent = isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled)
    if absent or (isinstance(error, MissingFileError) and str(error) == NOT_CACHED):
        if options["local_files_only"] or constants.HF_HUB_OFFLINE:
            return _fetch_first(repository, file)
        return f"{NOT_CACHED}, and {_unanswered(error.__cause__)}, or give a folder with the files"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, errors.HFValidationError):
        return "this is no name of a hub repository such as owner/name; check it"
    if isinstance(error, MissingFileError):
        return str(error)
    return f"download failed: {_unanswered(error)}"


def _unanswered(error: BaseException | None) -> str:
    """Why the hub did not answer, and what to do about it."""
    status = status_of(error)
    if status:
        return ANSWERS.get(status, f"the hub answers {status}; try again later, or check the proxy and HF_ENDPOINT")
    why = "" if error is None else f" ({type(error).__name__}: {told(error)})"
    return f"the hub cannot be reached{why}; check the network, the proxy and the token"


def told(error: BaseException) -> str:
    """What an error of the hub's client says, unless it would show the user's token."""
    return "the token holds what cannot be sent" if "Bearer" in str(error) else first_line(error)


def _fetch_first(repository: str, file: str) -> str:
    part = f" --include '{file}*'" if file.endswith("/") else f" {file}" if file else ""
    return (
        f"{NOT_CACHED}, and downloads are off; allow them, or run `hf download {repository}{part}` where there is "
        "a network"
    )
