"""Errors become a message and an exit code."""

from __future__ import annotations

#: a mistake of the user, a failure of ours or of the machine, Ctrl-C
USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130


class Failure(Exception):
    """What was asked for makes sense and it failed all the same."""


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the message for an error that left a command.

    A ``ValueError`` or a missing or existing file is the user's mistake: the library's messages name the argument,
    its value and the fix. What nobody foresaw is named by its type, so that it can be reported.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, str(error) or "interrupted"
    if isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError):
        named = error.filename and error.strerror
        return USER_MISTAKE, f"{error.filename}: {error.strerror}" if named else str(error)
    if isinstance(error, ValueError):
        return USER_MISTAKE, str(error)
    if isinstance(error, Failure | OSError | ImportError | MemoryError):
        return FAILURE, str(error) or type(error).__name__
    return FAILURE, f"unexpected {type(error).__name__}: {error}\n`recgraph --debug ...` shows where it happened"
