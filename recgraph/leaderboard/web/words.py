"""Numbers and names as the page writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from recgraph.leaderboard.stat import Stat

__all__ = ["anchors", "count", "duration", "listed", "memory", "metric_name", "short_hash", "spread"]

_ABBREVIATIONS = {"ndcg", "mrr", "map", "auc", "nmi", "ari", "rbp", "dcg", "ncrr", "f1"}
_HASH = re.compile(r"[0-9a-f]{32,}")


def metric_name(metric: str) -> str:
    """``NDCG@10`` of ``ndcg@10``, ``Macro F1`` of ``macro_f1``."""
    name, at, cutoff = metric.partition("@")
    words = [word.upper() if word in _ABBREVIATIONS else word for word in name.split("_")]
    text = " ".join(words)
    return f"{text[:1].upper()}{text[1:]}{at}{cutoff}"


def spread(stat: Stat) -> str:
    """``±.0012``; empty of one seed."""
    if stat.sd is None:
        return ""
    return f"±{stat.sd:.4f}".replace("±0.", "±.") if stat.sd else "±0"


def duration(seconds: float) -> str:
    """Seconds as people say them, to three digits."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for most, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def count(number: float) -> str:
    """``1.87 M`` of 1,871,496."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def memory(mib: float) -> str:
    """``624 MiB``, ``1.2 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.3g} GiB"


def short_hash(text: str) -> str:
    """A text in which long hashes are cut to 12 digits."""
    return _HASH.sub(lambda found: found[0][:12], text)


def listed(names: Iterable[str], most: int = 3) -> str:
    """``A, B and 2 more``."""
    every = list(names)
    shown, left = every[:most], len(every) - most
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def anchors(names: Iterable[str]) -> list[str]:
    """A name for an address each: small letters, digits and dashes, all different."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "entry"
        same = sum(re.fullmatch(rf"{plain}(-\d+)?", other) is not None for other in found)
        found.append(f"{plain}-{same + 1}" if same else plain)
    return found
