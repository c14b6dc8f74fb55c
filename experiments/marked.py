"""Parts of pages that are written from records: they stand between a pair of markers, and all else
is left as it is.
"""

from __future__ import annotations

import re


def marked(page: str, name: str, made: str) -> str:
    """The page with ``made`` between ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    Raises:
        ValueError: it has no such markers.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    written, found = re.subn(
        f"(?s){re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{made}\n\n{end}", page
    )
    if not found:
        raise ValueError(f"the page has no markers {begin.strip()!r} and {end!r}")
    return written
