"""An entry of a sheet: a model with its settings, description, commands and records."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recgraph import registry
from recgraph.leaderboard.board import EntrySpec
from recgraph.leaderboard.numbers import device_of
from recgraph.leaderboard.plan import Job, Repeat, shown_study, without_fold
from recgraph.leaderboard.store import Record
from recgraph.models.base import Model
from recgraph.setting_texts import setting_text

__all__ = ["Entry", "ModelText", "entry_of", "text_of"]


# up to the venue and the year, or to the end of the paragraph where there are none
_SOURCE = re.compile(r"Source:\s*((?:(?!\n\s*\n).)+?\([^)]*\d{4}[^)]*\)|.+?(?=\n\s*\n|\Z))", re.DOTALL)
_DEPARTURES = re.compile(r"Departures?:\s*(.+?)(?=\n\s*\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ModelText:
    """A docstring's first sentence, its paper (after ``Source:``), and its differences from that (``Departures:``), as
    plain text, each empty where there is none."""

    summary: str
    source: str
    departures: str


def text_of(cls: type[Model]) -> ModelText:
    """The docstring of a model; empty where the class itself has none."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    return ModelText(_plain(text.partition("\n")[0]), _found(_SOURCE, text), _found(_DEPARTURES, text))


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return _plain(found.group(1)) if found else ""


def _plain(text: str) -> str:
    """The text on one line without reStructuredText markup."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("``", "")).strip()


#: the parts of a job's identity that are its configuration
_PARTS = ("config", "training", "data")


@dataclass(frozen=True)
class Entry:
    """A row of a board: a model with its settings.

    Attributes:
        name: unique in the sheet.
        model: its key in the registry.
        class_name: of the model.
        text: its docstring: summary, paper, departures.
        note: of the board, what the model is made of, and which classes of nodes its training reads, if any.
        study: the study whose best trial gave the settings, or None.
        address: of the configuration, as in the names of its records; of a board with folds that of all folds.
        seeds: those that the board asks for, each with its fold where there are folds; ``done`` are those with a
            record. What is said of each seed is then said of each of these pairs.
        settings: ``key=value`` of all that are not defaults; ``configuration``: all settings, by part.
        best_epochs: seed -> the epoch whose weights were kept; None for a model without epochs.
        commands: seed -> the commands that reproduce its numbers, for every seed. ``command``: the same with ``$seed``
            in place of the seed.
        records: seed -> the file, relative to the sheet's folder.
        machines, versions, commits: of the runs, with versions of packages and commits of this library; several only
            where records differ.
        times: seed -> the time of its record, UTC, ISO 8601.
    """

    name: str
    model: str
    class_name: str
    text: ModelText
    note: str
    study: str | None
    address: str
    seeds: tuple[Repeat, ...]
    settings: tuple[str, ...]
    configuration: Mapping[str, Any]
    best_epochs: Mapping[Repeat, int | None]
    commands: Mapping[Repeat, str]
    command: str
    records: Mapping[Repeat, str]
    machines: tuple[str, ...]
    versions: tuple[str, ...]
    commits: tuple[str, ...]
    times: Mapping[Repeat, str]

    @property
    def done(self) -> tuple[Repeat, ...]:
        """The seeds that have a record."""
        return tuple(self.records)


def entry_of(spec: EntrySpec, jobs: list[Job], records: Mapping[Repeat, Record]) -> Entry:
    """Build an entry from its records.

    Args:
        jobs: one for each seed, or fold and seed.
        records: of each of them, where there is one.
    """
    cls: type[Model] = registry.load("model", spec.model)
    first, provenance = jobs[0], [record["provenance"] for record in records.values()]
    parts = {name: first.identity[name] for name in _PARTS if name in first.identity}
    settings = first.settings
    if first.fold is not None:
        settings, parts = without_fold(settings), {**parts, "data": without_fold(parts["data"])}
    notes = spec.note, cls.said_of(first.identity["config"])
    return Entry(
        name=spec.name,
        model=first.model,
        class_name=cls.__name__,
        text=text_of(cls),
        note=" ".join(filter(None, notes)),
        study=shown_study(spec),
        address=first.of_all_folds,
        seeds=tuple(job.repeat for job in jobs),
        settings=tuple(setting_text(*each) for each in settings.items()),
        configuration=parts,
        best_epochs={seed: record["training"]["best_epoch"] for seed, record in records.items()},
        commands={job.repeat: _command(job, records.get(job.repeat)) for job in jobs},
        command=_command(first, next(iter(records.values()), None), "$seed"),
        records={job.repeat: f"{job.stem}.json" for job in jobs if job.repeat in records},
        machines=_each(_machine(each) for each in provenance),
        versions=_each(_versions(each) for each in provenance),
        commits=_each(each["commit"] or "unknown" for each in provenance),
        times={seed: record["at"] for seed, record in records.items()},
    )


def _command(job: Job, record: Record | None, seed: str | None = None) -> str:
    if record is None:
        return job.command(seed)
    return job.command(seed, threads=record["provenance"]["threads"], device=device_of(record))


def _machine(provenance: Mapping[str, Any]) -> str:
    device = f", {provenance['cuda']}" if provenance["cuda"] else ""
    return f"{provenance['machine']}{device}, {provenance['threads']} thread{'' if provenance['threads'] == 1 else 's'}"


def _versions(provenance: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in provenance["packages"].items() if version)
    return f"Python {provenance['python']}, {packages}"


def _each(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
