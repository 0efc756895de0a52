"""Every error that a user can meet, each with one exit code and one HTTP status.

StagevarError                     exit  HTTP
├── RequestError                     2   400   the input cannot be served; says what would be accepted
│   ├── PromptError                  2   400   empty, over-long, or words that the model does not know
│   ├── SizeError                    2   400   picture size outside the model's table
│   ├── OptionError                  2   400   unknown or out-of-range option, plan or accelerator
│   ├── UnknownModelError            2   404   no such model
│   ├── TooLargeError                2   413   more bytes than a server reads
│   └── SlowError                    2   408   a request that did not arrive in time
├── MissingExtraError                3   501   an optional dependency is not installed
├── CheckpointError                  4   500   weights that cannot be used
│   ├── MissingFileError             4   503   a file is neither on disk nor reachable
│   ├── ForeignCheckpointError       4   500   another family, or truncated, or tensors missing / left over
│   ├── ShapeError                   4   500   a tensor of another shape
│   └── UnsafePickleError            4   500   a pickle that would have to run code
├── NumericError                     5   500   NaN or infinity in the logits
├── OutputError                      6   507   a result could not be written
├── ServiceError                     7   503   a server that is starting or stopping
│   ├── KeyRefusedError              7   401   no API key, or an unknown one
│   ├── BusyError                    7   429   the queue is full
│   └── DeadlineError                7   504   not drawn within the time that a request has
└── Cancelled                      130   499   interrupted between two scales
    └── Terminated                 143   499   ended by the operating system
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_QUOTE, LONGEST_MESSAGE = 120, 1200


def quoted(value: object) -> str:
    """The value as a message shows it: its ``repr``, shortened in the middle."""
    if isinstance(value, str) and len(value) > 2 * LONGEST_QUOTE:
        value = value[:LONGEST_QUOTE] + value[-LONGEST_QUOTE:]
    try:
        text = repr(value)
    except ValueError:  # an integer of too many digits
        text = f"a {type(value).__name__}"
    return shortened(text, LONGEST_QUOTE)


def shortened(text: str, most: int) -> str:
    """The text, or its two ends if it is longer than ``most``."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-(most // 2) :]}"


def one_line(text: str) -> str:
    """The text with line ends and characters that would steer a terminal written out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class StagevarError(Exception):
    """Base of all errors that are shown to users as one line without a traceback, short and printable whatever input
    they quote."""

    exit_code = 1
    http_status = 500

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(shortened(message, LONGEST_MESSAGE)))


class RequestError(StagevarError):
    exit_code = 2
    http_status = 400


class PromptError(RequestError):
    pass


class SizeError(RequestError):
    pass


class OptionError(RequestError):
    pass


class UnknownModelError(RequestError):
    http_status = 404


class TooLargeError(RequestError):
    http_status = 413


class SlowError(RequestError):
    http_status = 408


class MissingExtraError(StagevarError):
    exit_code = 3
    http_status = 501

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'stagevar[{extra}]'")


class CheckpointError(StagevarError):
    exit_code = 4


class MissingFileError(CheckpointError):
    http_status = 503


class ForeignCheckpointError(CheckpointError):
    pass


class ShapeError(CheckpointError):
    pass


class UnsafePickleError(CheckpointError):
    pass


class NumericError(StagevarError):
    exit_code = 5


class OutputError(StagevarError):
    exit_code = 6
    http_status = 507


class ServiceError(StagevarError):
    """What another moment may change.

    Attributes:
        retry_after: seconds after which to try again, if the server can tell.
    """

    exit_code = 7
    http_status = 503

    def __init__(self, message: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KeyRefusedError(ServiceError):
    http_status = 401


class BusyError(ServiceError):
    http_status = 429


class DeadlineError(ServiceError):
    http_status = 504


class Cancelled(StagevarError):
    exit_code = 130
    http_status = 499

    def __init__(self, message: str = "cancelled before the next scale") -> None:
        super().__init__(message)


class Terminated(Cancelled):
    exit_code = 143


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of several names, and how many more there are."""
    names = [shortened(name, LONGEST_QUOTE) for name in names]
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest or "nothing"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened and without its full stop; its type if it has no message."""
    return shortened((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip("."), 2 * LONGEST_QUOTE)
