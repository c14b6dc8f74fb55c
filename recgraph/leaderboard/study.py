"""What a study found: from the study itself, or from its committed record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recgraph.run import DataConfig

__all__ = ["Tuned", "best_of"]


@dataclass(frozen=True)
class Tuned:
    """The best trial of a study, and what it was chosen on.

    Attributes:
        settings: of the model and of its training; how the data was split is not among them.
        model: the qualified name of its class; None where the record does not tell.
        dataset: its card; None where the record does not tell.
        split_hash: of the split whose validation part chose the settings; None where the record does not tell.
    """

    settings: dict[str, Any]
    model: str | None
    dataset: str | None
    split_hash: str | None


def best_of(place: str, folder: Path) -> Tuned:
    """The best trial.

    Args:
        place: a study's folder, a storage, or a JSON record of a study that was tested (``result.json`` of a study's
            folder, or one under ``experiments/results``); a path counts from ``folder`` on.

    Raises:
        ValueError: the record has no settings.
        FileNotFoundError: it is not there, or no trial is complete.
    """
    path = folder / place
    if path.suffix == ".json":
        return _of_record(json.loads(path.read_text(encoding="utf-8")), place)
    from recgraph.tuning.final import best_trial
    from recgraph.tuning.find import find_study
    from recgraph.tuning.report.page import settings_of

    with find_study(place if "://" in place else str(path)) as (study, _):
        best = best_trial(study)
        if best is None:  # what asks for it waits, as for a study that is not there
            raise FileNotFoundError(f"study {place!r} has no complete trial")
        return _tuned(settings_of(study, best), study.user_attrs["recgraph"], study.user_attrs.get("source"))


def _of_record(record: Mapping[str, Any], place: str) -> Tuned:
    tested = [*(record.get("unsealed") or ()), *([record] if "settings" in record else [])]
    if not tested:
        raise ValueError(f"study {place!r} was never tested, so that its record names no best settings")
    settings: dict[str, Any] = tested[-1]["settings"]["tuned"]
    identity = record.get("recgraph") or {}
    if "metric" not in settings and identity.get("metrics"):
        from recgraph.tuning.objectives import selecting

        settings = {**settings, "metric": selecting(tuple(identity["metrics"]))}
    source = record.get("source") or {}
    of_test = {"split_hash": tested[-1].get("split_hash"), **identity}
    return _tuned({**source.get("settings", {}), **settings}, of_test, source)


def _tuned(settings: Mapping[str, Any], identity: Mapping[str, Any], source: Mapping[str, Any] | None) -> Tuned:
    return Tuned(
        {name: value for name, value in settings.items() if name not in DataConfig.model_fields},
        identity["model"].rpartition(":")[2] if "model" in identity else None,
        (source or {}).get("dataset"),
        identity.get("split_hash"),
    )
