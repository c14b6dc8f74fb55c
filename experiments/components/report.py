"""What each component gained or lost against its base: differences over users, tested, with their cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.components.boards import board_file
from experiments.components.plan import ITSELF
from experiments.components.search import RESULTS
from recgraph.data.files import replace_text
from recgraph.evaluate.results import Result
from recgraph.evaluate.significance import over_users
from recgraph.evaluate.statistics import holm
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.entry import Entry
from recgraph.leaderboard.sheet import Sheet, open_sheet
from recgraph.leaderboard.store import Store

DIFFERENCES = RESULTS / "differences.json"
#: below it a difference counts
ALPHA = 0.05


@dataclass
class Difference:
    """An entry less the base, over users, each with the mean over seeds.

    Attributes:
        base_mean, mean: of the metric.
        low, high: the 95 % interval of the difference.
        p, p_adjusted: Fisher's randomisation test; by Holm over all rows of the study under one convention.
        seconds: CPU seconds of a training over the base's.
        n_seeds: of the entry.
    """

    dataset: str
    base: str
    component: str
    seen: str
    metric: str
    base_mean: float
    mean: float
    low: float
    high: float
    p: float
    p_adjusted: float
    seconds: float
    n_seeds: int

    @property
    def verdict(self) -> str:
        if self.p_adjusted >= ALPHA:
            return "no difference shown"
        return "helps" if self.mean > self.base_mean else "harms"


def differences(
    pairs: Iterable[tuple[str, str]], results: Path | None = None, before: Iterable[Difference] = ()
) -> list[Difference]:
    """All differences of the boards of some data sets and bases; p adjusted over all of them.

    Args:
        results: the folder of records of boards; None: beside the boards' folder.
        before: differences that stay where a board's values of users are not at hand.

    Raises:
        FileNotFoundError: they are not, and there is nothing from before: run the board here.
    """
    before, found = list(before), []
    for dataset, base in pairs:
        try:
            found += _of_board(dataset, base, results)
        except FileNotFoundError as error:
            kept = [one for one in before if (one.dataset, one.base) == (dataset, base)]
            if not kept:
                raise
            print(f"{error}; the rows of {base} on {dataset} stay", file=sys.stderr)
            found += kept
    for seen in {one.seen for one in found}:
        own = [one for one in found if one.seen == seen]
        for one, p in zip(own, holm([one.p for one in own]).tolist(), strict=True):
            one.p_adjusted = p
    return found


def _of_board(dataset: str, base: str, results: Path | None) -> Iterator[Difference]:
    board = load_board(str(board_file(dataset, base)))
    (spec,) = board.sheets
    sheet = open_sheet(board, spec, results)
    entries = {entry.name: entry for entry in sheet.entries if entry.records}
    reference = entries[ITSELF.title]
    for table in sheet.tables:
        metric = table.metrics[0]
        own = _users(sheet, reference, table.title)
        for name, entry in entries.items():
            if name == ITSELF.title:
                continue
            test = over_users(own, _users(sheet, entry, table.title), metric)
            means = [sheet.score(each, table.title, metric) for each in (ITSELF.title, name)]
            costs = [sheet.cost(each, "training_cpu_seconds") for each in (name, ITSELF.title)]
            assert all(means)
            assert all(costs)
            p, ratio = test.p_values["randomisation"], costs[0].mean / costs[1].mean  # type: ignore[union-attr]
            interval = test.interval.low, test.interval.high
            values = [each.mean for each in means]  # type: ignore[union-attr]
            yield Difference(
                dataset, base, name, table.title, metric, *values, *interval, p, p, ratio, len(entry.records)
            )


def _users(sheet: Sheet, entry: Entry, title: str) -> list[Result]:
    """The values of users of each seed of an entry."""
    store, found = Store(sheet.folder), []
    for seed, name in entry.records.items():
        result = store.values(f"{entry.model}-{entry.address}-seed{seed}", title, store.read(name))
        if result is None:
            raise FileNotFoundError(f"{sheet.folder}: no values of users of {entry.name}; run the board with --values")
        found.append(result)
    return found


def saved() -> list[Difference]:
    """The differences of the last report."""
    return [Difference(**one) for one in json.loads(DIFFERENCES.read_text())] if DIFFERENCES.exists() else []


def save(found: list[Difference]) -> None:
    replace_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", DIFFERENCES)


def table(found: Iterable[Difference], seen: str) -> str:
    """The differences under one convention as a Markdown table, the greatest gain first."""
    lines = [
        "| component | metric | base | with it | difference, 95 % interval | p (Holm) | CPU | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in sorted((one for one in found if one.seen == seen), key=lambda of: of.base_mean - of.mean):
        gain = f"{one.mean - one.base_mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
        numbers = f"{one.base_mean:.4f} | {one.mean:.4f} | {gain} | {one.p_adjusted:.4f} | {one.seconds:.1f}x"
        lines.append(f"| {one.component} | {one.metric} | {numbers} | {one.verdict} |")
    return "\n".join(lines) + "\n"
