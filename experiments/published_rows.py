"""Published numbers of LightGCN's Gowalla beside ours: ``python -m experiments.published_rows``
writes three tables of experiments/published/README.md from the records of the boards ``published``
and ``collaborative``, and of ``experiments.gowalla`` (a test says when to)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.marked import marked
from recgraph import registry
from recgraph.config import Config
from recgraph.files import write_text
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.sheet import Sheet, open_sheet
from recgraph.models.base import Model, TrainableModel
from recgraph.train.config import FALLING, share_out, training_config

PAGE = Path(__file__).parent / "published" / "README.md"
NAME, DRAWN_NAME, CURVES_NAME = "gowalla-published", "gowalla-drawn", "gowalla-curves"
_RESULTS = PAGE.parents[1] / "results"
#: what ``experiments.gowalla`` wrote
DRAWN, CURVES = _RESULTS / "gowalla-drawn-test.jsonl", _RESULTS / "gowalla-curves.jsonl"
METRICS = ("recall@20", "ndcg@20")
#: how far a ratio may be from 1 without a cause, in rounding of the published figures besides
CLOSE = 0.01
_GROUPS = "1,000 negatives for each of 64 groups of a step"
#: of a training whose best epoch is its last, and whose rate had not fallen to 0
UNFINISHED = "not at its end"
_SMALL = "batches of 256 in 8 groups at rate"
_LARGE = "theirs has batches of 256, clipped gradients and dropout of unit vectors, as the row of the same name has"
_FEW = "with 1,500 negatives that groups share it has its figure (row above); what that changes is below"


@dataclass(frozen=True)
class Row:
    """A model's published figures.

    Attributes:
        title: shown.
        entry: its name on both boards.
        theirs: published recall and NDCG at 20; None: nothing was.
        source: of these.
        settings: ours.
        gap: why ours are more than a hundredth below, or were not run; the table adds how the
            training ended.
    """

    title: str
    entry: str
    theirs: tuple[float, float] | None = None
    source: str = "BARS"
    settings: str = ""
    gap: str = ""


ROWS = (
    Row("Popularity", "Popularity"),
    Row(
        "ItemKNN",
        "ItemKNN, weighted mean",
        (0.1570, 0.1214),
        settings="cosine, 100 neighbours, by their weighted mean",
        gap="BARS adds the items' means: .1568 / .1214 with them "
        "(`python -m experiments.gowalla FOLDER fit itemknn-means`)",
    ),
    Row("ItemKNN, plain sum", "ItemKNN", settings="the same neighbours"),
    Row("GF-CF", "GFCF", (0.1849, 0.1518), settings="256 factors, weight .3"),
    Row(
        "BSPM",
        "BSPM",
        (0.1920, 0.1597),
        "its paper",
        settings="448 factors, weight .2, one step of 2.5",
    ),
    Row(
        "Turbo-CF",
        "TurboCF",
        (0.1835, 0.1531),
        "its paper",
        settings="the published filter with all entries",
        gap="its equation, written with scipy, has the same",
    ),
    Row("EASE", "EASE", (0.1765, 0.1467), settings="penalty 80, in float32"),
    Row(
        "SLIM",
        "SLIM",
        (0.1699, 0.1382),
        settings="l1 .22, l2 59: the best of ten trials on the valid part",
    ),
    Row(
        "BPR-MF",
        "BPRMF",
        (0.1627, 0.1378),
        settings=f"300 negatives, {_SMALL} .001, 30 epochs",
    ),
    Row(
        "LightGCN",
        "LightGCN",
        (0.1820, 0.1547),
        settings="3 layers, l2 1e-4, batches of 8,192 at rate .006",
        gap=f"{UNFINISHED}: BARS' log has .1677 / .1435 after as many epochs, and its figure after 960",
    ),
    Row(
        "XSimGCL",
        "XSimGCL",
        settings="2 layers, weight .2, temperature .2, noise .2; 23 epochs by the valid part",
    ),
    Row(
        "MF-CCL",
        "MF-CCL",
        (0.1837, 0.1493),
        settings=f"margin .9, 800 negatives of weight 150, {_SMALL} .0001, 40 epochs",
    ),
    Row(
        "MF-CCL, batches of 4,096",
        "MF-CCL, batches of 4,096",
        (0.1837, 0.1493),
        settings=f"margin .9, weight of negatives 250, {_GROUPS}",
        gap=_LARGE,
    ),
    Row(
        "SimpleX",
        "SimpleX",
        (0.1872, 0.1557),
        settings=f"g .8, margin .9, 2,000 negatives of weight 250, {_SMALL} .0001, 25 epochs",
        gap="in theirs a training history lacks the item that it predicts, padding takes a share of the attention, "
        "and matrices start wider: with all three it has its figure (third row below)",
    ),
    Row(
        "SimpleX, no targets in histories",
        "SimpleX, no targets in histories",
        (0.1872, 0.1557),
        settings="the same without that item, 40 epochs",
        gap="no padding, narrower start; after 40 epochs along a cosine the mean loss is .121, in the published log "
        ".124",
    ),
    Row(
        "SimpleX, published rates",
        "SimpleX, published rates",
        (0.1872, 0.1557),
        settings="the same at rate .0001 for 14 epochs, .00001 for 14 and .000001 for 4, as in the published log, "
        "which has 14, 17 and 7",
        gap="the rates are not the reason: no padding, narrower start (next row)",
    ),
    Row(
        "SimpleX, published padding and start",
        "SimpleX, published padding and start",
        (0.1872, 0.1557),
        settings="the same with 810 places in each history, of which the empty ones take a share of the attention, "
        "matrices that start from N(0, 1 / 64) and an L2 penalty of 1e-7, as in the published code",
    ),
    Row(
        "SimpleX, batches of 4,096",
        "SimpleX, batches of 4,096",
        (0.1872, 0.1557),
        settings=f"g .8, margin .9, weight of negatives 250, {_GROUPS}, the mean of the history",
        gap=f"{_LARGE}, and vectors of their own for the items of histories",
    ),
    Row(
        "UltraGCN",
        "UltraGCN",
        (0.1862, 0.1580),
        settings="1,500 negatives of weight 300 for each of 16 groups of a step, lambda .0005, an L2 penalty of 2e-7, "
        "batches of 2,048 at a rate from .02 down to 0, 120 epochs",
    ),
    Row(
        "UltraGCN, 50 negatives",
        "UltraGCN, 50 negatives",
        (0.1862, 0.1580),
        settings="50 negatives of weight 300 for each sample, lambda .0005, l2 .001, at a rate from .02 down to 0",
        gap=_FEW,
    ),
    Row(
        "UltraGCN, weight 30",
        "UltraGCN, weight 30",
        (0.1862, 0.1580),
        settings="50 negatives of weight 30 for each sample, lambda .01, l2 .003",
        gap="a weight of 30 is the reason: with 1,500 negatives it is hardly better after 24 epochs (below)",
    ),
)


def sheet_of(board: str) -> Sheet:
    """The sheet of Gowalla of a board."""
    found = load_board(PAGE.parents[1] / board)
    return next(open_sheet(found, sheet) for sheet in found.sheets if sheet.dataset == "gowalla")


def settings_of(entry: str) -> tuple[Model, dict[str, Any]]:
    """The model of an entry of the board ``published``, and its settings of training."""
    found = load_board(PAGE.parent)
    spec = next(each for sheet in found.sheets for each in sheet.models if each.name == entry)
    cls: type[Model] = registry.load("model", spec.model)
    parts: dict[str, type[Config]] = {"model": cls.Config}
    if issubclass(cls, TrainableModel):
        parts["training"] = training_config(cls)
    shared = share_out(cls, spec.settings, parts)
    return cls(**shared["model"]), shared.get("training", {})


def scores_of(sheet: Sheet, entry: str) -> tuple[float, ...] | None:
    """The test metrics of an entry with seen items excluded; None: it was not run."""
    found = [sheet.score(entry, "seen excluded", metric) for metric in METRICS]
    return tuple(one.mean for one in found if one is not None) or None


def ratios(row: Row, ours: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Ours over the published figures; None where there is one of the two alone."""
    if row.theirs is None or ours is None:
        return None
    return ours[0] / row.theirs[0], ours[1] / row.theirs[1]


def is_close(found: tuple[float, ...]) -> bool:
    """Whether no figure is more than a hundredth below the published one."""
    return all(ratio >= 1 - CLOSE for ratio in found)


@dataclass(frozen=True)
class Ending:
    """NDCG@20 on the valid part of a training's best epoch, that epoch, the last one that was
    validated, and whether the learning rate falls to 0 (a schedule ends where it was told to)."""

    best: float
    epoch: int
    last: int
    falls: bool

    @property
    def is_cut(self) -> bool:
        """Whether it might have gone on to a better epoch at the rate that it had."""
        return self.epoch == self.last and not self.falls

    def __str__(self) -> str:
        after = "" if self.epoch == self.last else f", and no higher by {self.last}"
        after += ", where the rate has fallen to 0" if self.falls and not after else ""
        return f"NDCG@20 {_short(self.best)} on the valid part after {self.epoch} epochs{after}"


def ending(sheet: Sheet, entry: str) -> Ending | None:
    """How the training of an entry ended; None: it has no epochs."""
    (of_entry,) = (each for each in sheet.entries if each.name == entry)
    points = sorted((epoch, value) for _, _, curve in of_entry.curves for epoch, value in curve)
    if not points:
        return None
    epoch, best = max(points, key=lambda point: point[1])
    falls = of_entry.configuration["training"]["schedule"] in FALLING
    return Ending(best, epoch, points[-1][0], falls)


def table() -> str:
    """The rows, by the order above."""
    published, held_out = sheet_of("published"), sheet_of("collaborative")
    heads = (
        "model",
        "theirs",
        "source",
        "ours, train+valid",
        "ours / theirs",
        "ours, train",
        "settings of ours",
        "gap",
    )
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in ROWS:
        ours, less = scores_of(published, row.entry), scores_of(held_out, row.entry)
        source = row.source if row.theirs else ""
        cells = (
            _pair(row.theirs),
            source,
            _pair(ours),
            _pair(ratios(row, ours), 3),
            _pair(less),
            row.settings,
            "; ".join(
                str(part) for part in (row.gap, row.gap and ending(published, row.entry)) if part
            ),
        )
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _pair(values: tuple[float, ...] | None, digits: int = 4) -> str:
    if values is None:
        return ""
    return " / ".join(_short(value, digits) for value in values)


def _short(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}".removeprefix("0")


def drawn_table() -> str:
    """The same models on the published test part and on one of its size that was drawn from all
    interactions.
    """
    published = sheet_of("published")
    titles = {row.entry: row.title for row in ROWS}
    lines = [
        "| model | published test part | drawn anew | drawn / published |",
        "| --- | --- | --- | --- |",
    ]
    found = [json.loads(line) for line in DRAWN.read_text(encoding="utf-8").splitlines()]
    for one in sorted(found, key=lambda line: -line["ndcg@20"]):
        theirs, ours = scores_of(published, one["entry"]), tuple(one[metric] for metric in METRICS)
        assert theirs is not None
        ratio = tuple(b / a for a, b in zip(theirs, ours, strict=True))
        lines.append(
            f"| {titles[one['entry']]} | {_pair(theirs)} | {_pair(ours)} | {_pair(ratio, 2)} |"
        )
    return "\n".join(lines)


#: of BARS' logs: entry -> epoch -> mean loss, recall and NDCG at 20 on the test part
LOGS = {
    "MF-CCL": {
        1: (0.582343, 0.089541, 0.067831),
        4: (0.162646, 0.135432, 0.105244),
        9: (0.140373, 0.160812, 0.126814),
        13: (0.133867, 0.168954, 0.133430),
    },
}


def curves_table() -> str:
    """Epochs of published logs beside those of the same trainings here."""
    titles = {row.entry: row.title for row in ROWS}
    lines = [
        "| model | epoch | their loss | ours | theirs | ours | ours / theirs |",
        f"|{' --- |' * 7}",
    ]
    for line in CURVES.read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        ours = {
            row["epoch"]: (row["loss"], *(row[metric] for metric in METRICS))
            for row in found["curve"]
        }
        for epoch, theirs in LOGS[found["entry"]].items():
            if epoch not in ours:
                continue
            (their_loss, *their_values), (loss, *values) = theirs, ours[epoch]
            ratio = tuple(b / a for a, b in zip(their_values, values, strict=True))
            cells = (
                _short(their_loss),
                _short(loss),
                _pair(tuple(their_values)),
                _pair(tuple(values)),
                _pair(ratio, 3),
            )
            lines.append(f"| {titles[found['entry']]} | {epoch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page() -> str:
    """The page with all tables."""
    text = PAGE.read_text(encoding="utf-8")
    for name, written in (
        (NAME, table()),
        (DRAWN_NAME, drawn_table()),
        (CURVES_NAME, curves_table()),
    ):
        text = marked(text, name, written)
    return text


if __name__ == "__main__":
    write_text(page(), PAGE)
