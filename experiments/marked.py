"""Parts of pages that are written from records: they stand between a pair of markers, and all else is left as it is."""

from __future__ import annotations

import re


def marked(page: str, name: str, made: str) -> str:
    """The page with ``made`` between ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    Raises:
        ValueError: it has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no markers {begin.strip()!r} and {end.strip()!r}")
    return re.sub(f"(?s){re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{made}\n{end}", page)
