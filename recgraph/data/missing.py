"""Texts that stand for a missing value in the files of other programs."""

from __future__ import annotations

__all__ = ["FOR_MISSING"]

#: what other programs write in the place of a missing value
FOR_MISSING = (
    "",
    "nan",
    "NaN",
    "NAN",
    "NULL",
    "null",
    "(null)",
    "None",
    "NA",
    "N/A",
    "<NA>",
    "NaT",
    "\\N",
    "undefined",
)
