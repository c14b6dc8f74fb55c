"""Log records of worker processes, passed on to the process that started them.

A worker writes its records as JSON lines into a file without a name that it has inherited, and the process that started
it reads them now and then. A file, and no pipe: it never makes a worker wait, and is gone with the processes, however
they end.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from recgraph.texts import RecordFormatter

__all__ = ["Inbox", "log_in_worker"]

#: what is kept of a record beside its message
_KEPT = ("name", "levelno", "levelname", "created", "msecs", "pathname", "filename", "module", "lineno", "funcName")
_root = logging.getLogger("recgraph")


class Inbox:
    """Reads the records of one worker and has them handled here, with the worker's name before the message.

    Args:
        worker: its name.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._read_to = 0

    def fileno(self) -> int:
        """The file's descriptor, which the worker inherits."""
        return self._file.fileno()

    def orders(self) -> dict[str, Any]:
        """What :func:`log_in_worker` has to know: the file, and the lowest level that is wanted here.

        ``levels`` has the loggers with a level of their own: a command may show the records of these alone.
        """
        known = logging.root.manager.loggerDict.items()
        own = {name: one.level for name, one in known if isinstance(one, logging.Logger) and one.level}
        levels = {name: level for name, level in own.items() if name.startswith(f"{_root.name}.")}
        return {"file": self.fileno(), "level": _root.getEffectiveLevel(), "levels": levels}

    def read(self) -> None:
        """Handle the records that were written since the last time."""
        size = os.fstat(self.fileno()).st_size
        if size <= self._read_to:
            return
        # pread: the worker writes at the file's own position
        written = os.pread(self.fileno(), size - self._read_to, self._read_to)
        whole = written[: written.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            record = logging.makeLogRecord(json.loads(line))
            record.msg, record.worker = f"{self._worker}: {record.msg}", self._worker
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    def close(self) -> None:
        """Read what is left and remove the file."""
        self.read()
        self._file.close()


class _Outbox(logging.Handler):
    """Writes records for an :class:`Inbox`."""

    def __init__(self, file: int, level: int, levels: Mapping[str, int]) -> None:
        super().__init__()
        self._file, self._level, self._levels = file, level, levels

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self._levels.get(record.name, self._level) and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{logging.Formatter().formatException(record.exc_info)}"
        values: dict[str, Any] = {name: getattr(record, name) for name in _KEPT}
        os.write(self._file, json.dumps({**values, "msg": message}).encode() + b"\n")


def log_in_worker(orders: Mapping[str, Any] | None) -> None:
    """In a worker: write records at INFO and above into its log, and pass on those that are wanted.

    Args:
        orders: see :meth:`Inbox.orders`; None passes on nothing.
    """
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.INFO)
    shown.setFormatter(RecordFormatter("[%(asctime)s] %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S"))
    _root.addHandler(shown)
    _root.setLevel(logging.INFO)
    if orders is not None:
        _root.addHandler(_Outbox(orders["file"], orders["level"], orders["levels"]))
        _root.setLevel(min(logging.INFO, orders["level"]))
