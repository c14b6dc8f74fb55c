"""The settings of a study's best trial: from the study itself, or from its committed record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["best_settings"]


def best_settings(place: str, folder: Path) -> dict[str, Any]:
    """The settings of the best trial.

    Args:
        place: a study's folder, a storage, or a JSON record of a study that was tested (``result.json`` of a study's
            folder, or one under ``experiments/results``); a path counts from ``folder`` on.

    Raises:
        ValueError: no trial is complete, or the record has none.
        FileNotFoundError: it is not there.
    """
    path = folder / place
    if path.suffix == ".json":
        return _of_record(json.loads(path.read_text(encoding="utf-8")), place)
    from recgraph.tuning.final import best_trial
    from recgraph.tuning.find import find_study
    from recgraph.tuning.report.page import settings_of

    with find_study(place if "://" in place else str(path)) as (study, _):
        best = best_trial(study)
        if best is None:
            raise ValueError(f"study {place!r} has no complete trial")
        return settings_of(study, best)


def _of_record(record: Mapping[str, Any], place: str) -> dict[str, Any]:
    tested = [*(record.get("unsealed") or ()), *([record] if "settings" in record else [])]
    if not tested:
        raise ValueError(f"study {place!r} was never tested, so that its record names no best settings")
    settings: dict[str, Any] = tested[-1]["settings"]["tuned"]
    identity = record.get("recgraph") or {}
    if "metric" not in settings and identity.get("metrics"):
        from recgraph.tuning.objectives import selecting

        settings = {**settings, "metric": selecting(tuple(identity["metrics"]))}
    return {**(record.get("source") or {}).get("settings", {}), **settings}
