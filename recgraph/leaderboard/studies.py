"""The settings that a board takes from a study: its best trial's, from its storage or its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recgraph.bounded.files import named
from recgraph.data.imprint import load_json
from recgraph.leaderboard.board import EntrySpec
from recgraph.runs.settings import DataConfig
from recgraph.tuning.passwords import without_password
from recgraph.tuning.storage import JOURNAL, SQLITE

__all__ = ["TunedSettings", "load_tuned", "shown_study"]


@dataclass(frozen=True)
class TunedSettings:
    """The settings of a study's best trial, and the data they were selected on.

    Attributes:
        settings: of the model and its training, without those of the split.
        model: the qualified name of its class; None where the record does not name it.
        dataset: its card; None where the record does not name it.
        split_hash: of the split whose validation part selected the settings; None where it was not recorded.
    """

    settings: dict[str, Any]
    model: str | None
    dataset: str | None
    split_hash: str | None


def shown_study(entry: EntrySpec) -> str | None:
    """Where an entry's settings are from, as it may be shown: an address without its password."""
    if entry.study is None:
        return None
    place = without_password(entry.study)
    return place if entry.study_name is None else f"{entry.study_name} in {place}"


def load_tuned(place: str, folder: Path, name: str | None = None) -> TunedSettings:
    """Load the settings of the best trial of a study.

    Args:
        place: a study's folder, a storage, or a JSON record of a study that was tested (``result.json`` of a study's
            folder, or one under ``experiments/results``); a path counts from ``folder`` on.
        name: of the study, in a storage that holds several.

    Raises:
        ValueError: the record has no settings, or the storage holds several studies and ``name`` is None.
        FileNotFoundError: the study does not exist, or none of its trials is complete.
    """
    if place.endswith(".json"):
        record = load_json(folder / place)
        with named(folder / place):
            return _from_record(record, place)
    from recgraph.tuning.final import best_trial
    from recgraph.tuning.finding import find_study
    from recgraph.tuning.report import settings_of

    shown = without_password(place)
    with find_study(_located(place, folder), name) as (study, _), named(folder / shown):
        best = best_trial(study)
        if best is None:  # its entry waits, as for a study that does not exist yet
            raise FileNotFoundError(f"study {shown!r} has no complete trial")
        return _tuned(settings_of(study, best), study.user_attrs["recgraph"], study.user_attrs.get("source"))


def _located(place: str, folder: Path) -> str:
    """A place of a study with its path from a folder on; that of a URL which is there from the current folder on alone
    is taken, as earlier versions did."""
    kind = next((kind for kind in (JOURNAL, SQLITE) if place.startswith(kind)), None)
    if kind is None:
        return place if "://" in place else str(folder / place)
    path = folder / place.removeprefix(kind)
    return place if not path.exists() and Path(place.removeprefix(kind)).exists() else f"{kind}{path}"


def _from_record(record: Mapping[str, Any], place: str) -> TunedSettings:
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


def _tuned(settings: Mapping[str, Any], identity: Mapping[str, Any], source: Mapping[str, Any] | None) -> TunedSettings:
    return TunedSettings(
        {name: value for name, value in settings.items() if name not in DataConfig.model_fields},
        identity["model"].rpartition(":")[2] if "model" in identity else None,
        (source or {}).get("dataset"),
        identity.get("split_hash"),
    )
