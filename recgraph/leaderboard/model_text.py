"""What a model's docstring says, for its card."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from recgraph.models.base import Model

__all__ = ["ModelText", "text_of"]

# up to the venue and the year, or to the end of the paragraph where there are none
_SOURCE = re.compile(r"Source:\s*((?:(?!\n\s*\n).)+?\([^)]*\d{4}[^)]*\)|.+?(?=\n\s*\n|\Z))", re.DOTALL)
_DEPARTURES = re.compile(r"Departures?:\s*(.+?)(?=\n\s*\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ModelText:
    """The parts of a docstring as plain text.

    Attributes:
        summary: its first sentence.
        source: the paper, what follows ``Source:`` up to venue and year; empty where it names none.
        departures: what differs from the paper, what follows ``Departures:``.
        paragraphs: all of it; those that begin with ``- `` are items of a list.
    """

    summary: str
    source: str
    departures: str
    paragraphs: tuple[str, ...]


def text_of(cls: type[Model]) -> ModelText:
    """The docstring of a model; empty where it has none of its own."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    paragraphs = tuple(_plain(part) for part in re.split(r"\n\s*\n|\n(?=- )", text) if part.strip())
    return ModelText(_plain(text.partition("\n")[0]), _found(_SOURCE, text), _found(_DEPARTURES, text), paragraphs)


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return _plain(found.group(1)) if found else ""


def _plain(text: str) -> str:
    """One line without the marks of reStructuredText."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("``", "")).strip()
