"""Errors that a person can read: what was wanted, what came, and (``hint``) what to do next."""


class Error(Exception):
    """Base of all errors of Collegium.

    Attributes:
        message: what went wrong.
        hint: what to do next; may be empty.
        exit_code: the command line's exit code for this kind of error.
    """

    exit_code = 1

    def __init__(self, message: str = "", hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self):
        return type(self), (self.message, self.hint)


class UsageError(Error, ValueError):
    """A wrong argument or configuration."""

    exit_code = 2


class RefusedError(Error):
    """A plan that does not fit, or a resume that would drift."""

    exit_code = 3


class DataError(Error):
    """Unreadable or wrong data."""

    exit_code = 4


class IoError(Error, OSError):
    """A file could not be read or written."""

    exit_code = 5
